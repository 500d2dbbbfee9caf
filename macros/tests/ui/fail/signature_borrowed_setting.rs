use sinew::{Cx, Next, Outcome, interceptor};

#[interceptor]
pub async fn role(cx: &mut Cx, next: impl Next, name: &str) -> Outcome {
    let _ = name;
    next.run(cx).await
}

fn main() {}

use sinew::{Cx, Next, Outcome, interceptor};

#[interceptor(trace)]
pub async fn audit(cx: &mut Cx, next: impl Next) -> Outcome {
    next.run(cx).await
}

fn main() {}

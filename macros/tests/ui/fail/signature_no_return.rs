use sinew::{Cx, Next, interceptor};

#[interceptor]
pub async fn audit(cx: &mut Cx, next: impl Next) {
    let _ = next.run(cx).await;
}

fn main() {}

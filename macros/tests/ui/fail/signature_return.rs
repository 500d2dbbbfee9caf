use sinew::{Cx, Next, interceptor};

#[interceptor]
pub async fn audit(cx: &mut Cx, next: impl Next) -> u64 {
    next.run(cx).await;
    1
}

fn main() {}

use sinew::{Cx, Next, Outcome, interceptor};

#[interceptor]
pub async fn audit<N: Next>(cx: &mut Cx, next: N) -> Outcome {
    next.run(cx).await
}

fn main() {}

use sinew::{Cx, Next, Outcome, interceptor};

#[interceptor]
pub async fn audit(cx: &mut Cx, next: impl Next) -> Outcome {
    next.run(cx).await
}

#[interceptor(audit)]
pub trait Orders {
    async fn get(&self, id: u64) -> u64;
}

fn main() {}

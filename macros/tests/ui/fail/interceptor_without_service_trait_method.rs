use sinew::{Cx, Next, Outcome, interceptor};

#[interceptor]
pub async fn audit(cx: &mut Cx, next: impl Next) -> Outcome {
    next.run(cx).await
}

pub trait Orders {
    #[interceptor(audit)]
    fn get(&self, id: u64) -> u64;
}

fn main() {}

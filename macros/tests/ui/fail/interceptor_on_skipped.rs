use sinew::{Cx, Next, Outcome, interceptor, service};

#[interceptor]
pub async fn audit(cx: &mut Cx, next: impl Next) -> Outcome {
    next.run(cx).await
}

#[service]
pub trait Orders {
    #[rpc(skip)]
    #[interceptor(audit)]
    fn helper(&self) -> u64 {
        1
    }
}

fn main() {}

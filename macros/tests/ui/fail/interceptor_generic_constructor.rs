use sinew::{Cx, Next, Outcome, interceptor, service};

#[interceptor]
pub async fn audit(cx: &mut Cx, next: impl Next) -> Outcome {
    next.run(cx).await
}

#[service]
pub trait Orders {
    async fn get(&self, id: u64) -> u64;
}

pub struct Shop<D>(D);

#[service]
#[interceptor(make::<D>())]
impl<D: Send + Sync + 'static> Orders for Shop<D> {
    async fn get(&self, id: u64) -> u64 {
        id
    }
}

fn main() {}

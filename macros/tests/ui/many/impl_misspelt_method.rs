use sinew::{Cx, Next, Outcome, interceptor, service};

#[interceptor]
async fn log(cx: &mut Cx, next: impl Next) -> Outcome {
    next.run(cx).await
}

#[service]
pub trait Orders {
    async fn get(&self, id: u64) -> u64 {
        id
    }
}

pub struct Shop;

#[service]
impl Orders for Shop {
    #[interceptor(log)]
    async fn gett(&self, id: u64) -> u64 {
        id
    }
}

fn main() {}

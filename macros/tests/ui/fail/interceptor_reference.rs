use sinew::{Cx, Next, Outcome, interceptor, service};

#[interceptor]
pub async fn audit(cx: &mut Cx, next: impl Next) -> Outcome {
    next.run(cx).await
}


#[service]
pub trait Orders {
    async fn get(&self, id: u64) -> u64;
}

pub struct Shop;

#[service]
#[interceptor(&audit)]
impl Orders for Shop {
    async fn get(&self, id: u64) -> u64 {
        id
    }
}

fn main() {}

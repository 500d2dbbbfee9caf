//! Implementations with parameters, and interceptors in their fields.

use sinew::{Cx, Interceptor, Next, Outcome, interceptor, service};

pub trait Db: Send + Sync + 'static {
    fn one(&self) -> u64;
}

impl Db for u64 {
    fn one(&self) -> u64 {
        *self
    }
}

#[interceptor]
async fn audit(cx: &mut Cx, next: impl Next) -> Outcome {
    next.run(cx).await
}

#[service]
pub trait Orders {
    async fn get(&self, id: u64) -> u64;
}

pub struct Shop<D, L> {
    db: D,
    limiter: L,
}

#[service]
#[interceptor(audit)]
impl<D: Db, L> Orders for Shop<D, L>
where
    L: Interceptor + 'static,
{
    #[interceptor(self.limiter)]
    async fn get(&self, id: u64) -> u64 {
        id + self.db.one()
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    assert_eq!(OrdersClient::local(Shop { db: 2, limiter: audit }).get(1).await.unwrap(), 3);
}

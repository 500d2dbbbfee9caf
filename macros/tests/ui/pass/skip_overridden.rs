//! A function with `#[rpc(skip)]` may be overridden in an implementation with `#[service]`; it takes no part in calls. `#[cfg]` below the attribute
//! takes all of an implementation along.

#![deny(warnings)]

use sinew::service;

#[service]
pub trait Orders {
    async fn count(&self) -> u64;
    #[rpc(skip)]
    fn name(&self) -> &'static str {
        "orders"
    }
}

pub struct Shop;

#[service]
impl Orders for Shop {
    async fn count(&self) -> u64 {
        self.name().len() as u64
    }
    fn name(&self) -> &'static str {
        "shop"
    }
}

pub struct Gone;

#[service]
#[cfg(any())]
impl Orders for Gone {
    #[interceptor(does_not_exist)]
    async fn count(&self) -> u64 {
        0
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    assert_eq!(OrdersClient::local(Shop).count().await.unwrap(), 4);
}

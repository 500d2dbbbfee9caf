//! Functions of the trait that are no RPCs.

#![deny(warnings)]

use sinew::service;

#[service(transparent, dyn, mock)]
pub trait Orders {
    #[rpc(skip)]
    fn name() -> &'static str
    where
        Self: Sized,
    {
        "orders"
    }
    #[rpc(skip)]
    fn generic<T: Into<u64>>(&self, value: T) -> u64
    where
        Self: Sized,
    {
        value.into()
    }
    #[rpc(skip)]
    async fn later(&self, id: &u64) -> u64 {
        *id + 1
    }
}

#[service]
pub trait Plain {
    #[rpc(skip)]
    fn required(&self) -> u64;
    async fn get(&self) -> u64 {
        self.required()
    }
}

pub struct Shop;

impl Orders for Shop {}

impl Plain for Shop {
    fn required(&self) -> u64 {
        4
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    assert_eq!(Shop::name(), "orders");
    assert_eq!(Shop.generic(3_u32), 3);
    assert_eq!(Shop.later(&1).await, 2);
    assert_eq!(PlainClient::local(Shop).get().await.unwrap(), 4);
}

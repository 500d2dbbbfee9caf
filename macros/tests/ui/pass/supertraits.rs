//! Supertraits stay, and what a server needs is added once.

#![deny(warnings)]

use sinew::service;

pub trait Named {
    fn name(&self) -> String;
}

#[service]
pub trait Orders: Named + Send + Sync {
    async fn greet(&self) -> String {
        self.name()
    }
}

pub struct Shop;

impl Named for Shop {
    fn name(&self) -> String {
        "shop".to_owned()
    }
}

impl Orders for Shop {}

fn spawn(orders: impl Orders) -> impl Future<Output = String> + Send + 'static {
    async move { orders.greet().await }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    assert_eq!(spawn(Shop).await, "shop");
    assert_eq!(OrdersClient::local(Shop).greet().await.unwrap(), "shop");
}

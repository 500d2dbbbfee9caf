// Two warnings made errors: that of every call, and the one that the trait's method carries, with its reason.

#![deny(unused_must_use)]

use sinew::service;

#[service]
pub trait Orders {
    #[must_use = "counting is slow"]
    async fn count(&self) -> u64;
}

pub fn caller(orders: &OrdersClient) {
    orders.count();
}

fn main() {}

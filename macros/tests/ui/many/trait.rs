// Three mistakes: one build reports all of them, and the uses of the trait add none.

use sinew::service;

#[service]
pub trait Orders {
    #[rpc(timout = "1s")]
    async fn get(&self, id: u64) -> u64;
    async fn count(&mut self) -> u64;
    async fn read(&self, (a, b): (u64, u64)) -> u64;
}

pub struct Shop;

impl Orders for Shop {
    async fn get(&self, id: u64) -> u64 {
        id
    }
}

pub async fn caller(orders: OrdersClient) -> u64 {
    let count: u64 = orders.count().await.unwrap();
    let read: u64 = orders.read((1, 2)).await.unwrap();
    count + read
}

fn main() {}

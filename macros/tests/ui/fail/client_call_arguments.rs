use sinew::service;

#[service]
pub trait Orders {
    async fn first(&self) -> u64;
    async fn get(&self, id: u64, depth: Option<u32>) -> u64;
}

pub async fn caller(orders: OrdersClient) {
    let _ = orders.get(1).await;
}

fn main() {}

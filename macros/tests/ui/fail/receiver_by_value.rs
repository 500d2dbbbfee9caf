use sinew::service;

#[service]
pub trait Orders {
    async fn get(self, id: u64) -> u64;
}

pub struct Shop;

impl Orders for Shop {
    async fn get(self, id: u64) -> u64 {
        id
    }
}

pub async fn user(orders: OrdersClient) {
    let _: u64 = orders.get(1).await.unwrap();
    let _ = OrdersServer::new(Shop);
}

fn main() {}

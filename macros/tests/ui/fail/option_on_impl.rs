use sinew::service;

#[service]
pub trait Orders {
    async fn get(&self, id: u64) -> u64;
}

pub struct Shop;

#[service(name = "shop.Orders")]
impl Orders for Shop {
    async fn get(&self, id: u64) -> u64 {
        id
    }
}

fn main() {}

use sinew::service;

#[service]
pub trait Orders {
    async fn get(&self, id: u64) -> u64;
}

pub struct Shop;

#[service]
impl Orders for Shop {
    #[rpc(idempotent)]
    async fn get(&self, id: u64) -> u64 {
        id
    }
}

fn main() {}

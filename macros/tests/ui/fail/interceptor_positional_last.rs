use sinew::service;

#[service]
pub trait Orders {
    async fn get(&self, id: u64) -> u64;
}

pub struct Shop;

#[service]
#[interceptor(limit(per = "1s", 500))]
impl Orders for Shop {
    async fn get(&self, id: u64) -> u64 {
        id
    }
}

fn main() {}

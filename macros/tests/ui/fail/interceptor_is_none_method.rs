use sinew::service;

pub async fn plain() {}


#[service]
pub trait Orders {
    async fn get(&self, id: u64) -> u64;
}

pub struct Shop;

#[service]
impl Orders for Shop {
    #[interceptor(plain)]
    async fn get(&self, id: u64) -> u64 {
        id
    }
}

fn main() {}

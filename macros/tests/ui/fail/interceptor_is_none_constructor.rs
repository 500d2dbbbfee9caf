use sinew::service;

pub async fn plain() {}


#[service]
pub trait Orders {
    async fn get(&self, id: u64) -> u64;
}

pub struct Shop;

#[service]
#[interceptor(plain())]
impl Orders for Shop {
    async fn get(&self, id: u64) -> u64 {
        id
    }
}

fn main() {}

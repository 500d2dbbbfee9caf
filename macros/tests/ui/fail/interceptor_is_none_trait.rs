use sinew::service;

pub async fn plain() {}

#[service]
#[interceptor(plain)]
pub trait Orders {
    async fn get(&self, id: u64) -> u64;
}

fn main() {}

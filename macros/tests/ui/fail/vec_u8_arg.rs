use sinew::service;

#[service]
pub trait Orders {
    async fn put(&self, data: Vec<u8>) -> u64;
}

fn main() {}

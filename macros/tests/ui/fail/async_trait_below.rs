use sinew::service;

#[service]
#[async_trait]
pub trait Orders {
    async fn get(&self, id: u64) -> u64;
}

fn main() {}

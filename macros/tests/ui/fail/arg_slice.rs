use sinew::service;

#[service]
pub trait Orders {
    async fn get(&self, ids: &[u64]) -> u64;
}

fn main() {}

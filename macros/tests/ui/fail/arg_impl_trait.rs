use sinew::service;

#[service]
pub trait Orders {
    async fn get(&self, id: impl Into<u64> + Send) -> u64;
}

fn main() {}

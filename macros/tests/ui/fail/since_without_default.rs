use sinew::service;

#[service]
pub trait Orders {
    async fn get(&self, id: u64, #[rpc(since = 2)] depth: u32) -> u64;
}

fn main() {}

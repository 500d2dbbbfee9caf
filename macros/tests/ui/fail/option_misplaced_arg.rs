use sinew::service;

#[service]
pub trait Orders {
    async fn get(&self, #[rpc(timeout = "1s")] id: u64) -> u64;
}

fn main() {}

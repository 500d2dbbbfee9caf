use sinew::service;

#[service]
pub trait Orders {
    #[rpc(timeout = "1s", timeout = "2s")]
    async fn get(&self, id: u64) -> u64;
}

fn main() {}

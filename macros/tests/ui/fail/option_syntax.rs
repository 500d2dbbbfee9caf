use sinew::service;

#[service]
pub trait Orders {
    #[rpc(timeout "1s")]
    async fn get(&self, id: u64) -> u64;
}

fn main() {}

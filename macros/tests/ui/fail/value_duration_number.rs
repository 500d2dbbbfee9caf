use sinew::service;

#[service]
pub trait Orders {
    #[rpc(timeout = 300)]
    async fn get(&self, id: u64) -> u64;
}

fn main() {}

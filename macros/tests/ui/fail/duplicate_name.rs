use sinew::service;

#[service]
pub trait Orders {
    async fn get(&self, id: u64) -> u64;
    #[rpc(name = "get")]
    async fn read(&self, id: u64) -> u64;
}

fn main() {}

use sinew::service;

#[service]
pub trait Orders {
    #[rpc(alias = "fetch")]
    async fn get(&self, id: u64) -> u64;
    #[rpc(alias = "fetch")]
    async fn read(&self, id: u64) -> u64;
}

fn main() {}

use sinew::service;

#[service]
pub trait Orders {
    #[rpc(since = "two")]
    async fn get(&self, id: u64) -> u64;
}

fn main() {}

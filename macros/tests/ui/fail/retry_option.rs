use sinew::service;

#[service]
pub trait Orders {
    #[rpc(retry = 3)]
    async fn get(&self, id: u64) -> u64;
}

fn main() {}

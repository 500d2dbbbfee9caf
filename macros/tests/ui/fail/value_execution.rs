use sinew::service;

#[service]
pub trait Orders {
    #[rpc(spawn, blocking)]
    async fn get(&self, id: u64) -> u64;
}

fn main() {}

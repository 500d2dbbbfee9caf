use sinew::service;

#[service]
pub trait Orders {
    #[cfg(all())]
    #[rpc(name = "get")]
    async fn read(&self, id: u64) -> u64;
    async fn get(&self, id: u64) -> u64;
}

fn main() {}

use sinew::service;

#[service]
pub trait Orders {
    async fn get(&self, id: u64, #[rpc(reserved)] depth: u32) -> u64;
}

fn main() {}

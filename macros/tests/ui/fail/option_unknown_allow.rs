use sinew::service;

#[service]
pub trait Orders {
    #[rpc(allow(vecu8))]
    async fn get(&self, id: u64) -> u64;
}

fn main() {}

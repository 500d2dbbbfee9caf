use sinew::service;

#[service]
pub trait Orders {
    #[rpc(hedge = "20ms")]
    async fn get(&self, id: u64) -> u64;
}

fn main() {}

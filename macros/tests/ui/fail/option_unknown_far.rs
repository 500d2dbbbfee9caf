use sinew::service;

#[service]
pub trait Orders {
    #[rpc(colour = "red")]
    async fn get(&self, id: u64) -> u64;
}

fn main() {}

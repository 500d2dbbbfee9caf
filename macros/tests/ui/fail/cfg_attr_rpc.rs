use sinew::service;

#[service]
pub trait Orders {
    #[cfg_attr(all(), rpc(idempotent))]
    async fn get(&self, id: u64) -> u64;
}

fn main() {}

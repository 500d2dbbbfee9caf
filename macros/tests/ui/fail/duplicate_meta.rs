use sinew::service;

#[service]
pub trait Orders {
    #[rpc(meta(role = "admin", role = "user"))]
    async fn get(&self, id: u64) -> u64;
}

fn main() {}

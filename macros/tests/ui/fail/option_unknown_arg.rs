use sinew::service;

#[service]
pub trait Orders {
    async fn get(&self, #[rpc(defualt)] id: u64) -> u64;
}

fn main() {}

use sinew::service;

#[service]
pub trait Orders {
    async fn get(&self, id: u64) -> Option<Vec<u8>>;
}

fn main() {}

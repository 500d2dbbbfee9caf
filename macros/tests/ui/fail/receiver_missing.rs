use sinew::service;

#[service]
pub trait Orders {
    async fn get(id: u64) -> u64;
}

fn main() {}

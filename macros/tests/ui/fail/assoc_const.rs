use sinew::service;

#[service]
pub trait Orders {
    const MAX: u64;
    async fn get(&self, id: u64) -> u64;
}

fn main() {}

use sinew::service;

#[service]
pub trait Orders {
    async fn get(&self, (a, b): (u64, u64)) -> u64;
}

fn main() {}

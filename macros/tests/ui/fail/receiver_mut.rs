use sinew::service;

#[service]
pub trait Orders {
    async fn get(&mut self, id: u64) -> u64;
}

fn main() {}

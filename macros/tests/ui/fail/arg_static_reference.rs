use sinew::service;

#[service]
pub trait Orders {
    async fn get(&self, id: &'static str) -> u64;
}

fn main() {}

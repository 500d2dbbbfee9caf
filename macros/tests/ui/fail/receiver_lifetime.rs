use sinew::service;

#[service]
pub trait Orders {
    async fn get(&'static self, id: u64) -> u64;
}

fn main() {}

use sinew::service;

#[service]
pub trait Orders {
    async fn get(&self, id: &mut u64) -> u64;
}

fn main() {}

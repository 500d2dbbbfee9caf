use sinew::service;

#[service]
pub trait Orders {
    async fn connect(&self, id: u64) -> u64;
}

fn main() {}

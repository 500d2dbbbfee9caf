use sinew::service;

#[service]
pub trait Orders {
    async fn __around(&self, id: u64) -> u64;
}

fn main() {}

use sinew::service;

#[service(mock)]
pub trait Orders {
    async fn new(&self, id: u64) -> u64;
}

fn main() {}

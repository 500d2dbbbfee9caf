use sinew::service;

#[service(transparent)]
pub trait Orders {
    async fn count(&self) -> u64;
}

fn main() {}

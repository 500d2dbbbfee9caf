use sinew::service;

#[service]
pub trait Orders {
    async fn get<T: Send>(&self, id: T) -> u64;
}

fn main() {}

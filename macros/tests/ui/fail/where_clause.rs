use sinew::service;

#[service]
pub trait Orders {
    async fn get(&self, id: u64) -> u64
    where
        Self: Sized;
}

fn main() {}

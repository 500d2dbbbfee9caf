use sinew::service;

#[service]
pub trait Orders: Sized {
    async fn get(&self, id: u64) -> Option<Self>;
}

fn main() {}

use sinew::service;

#[service]
pub trait Orders {
    async fn get(&self, mut id: u64) -> u64 {
        id += 1;
        id
    }
}

fn main() {}

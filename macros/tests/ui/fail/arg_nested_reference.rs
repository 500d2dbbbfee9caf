use sinew::service;

#[service]
pub trait Orders {
    async fn get(&self, ids: Vec<&str>) -> u64;
}

fn main() {}

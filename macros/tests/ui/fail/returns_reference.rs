use sinew::service;

#[service]
pub trait Orders {
    async fn get(&self, id: u64) -> &str;
}

fn main() {}

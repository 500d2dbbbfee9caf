use sinew::service;

#[service(encoding = "json")]
pub trait Orders {
    async fn get(&self, id: u64) -> u64;
}

fn main() {}

use sinew::service;

#[service(name = "shop/Orders")]
pub trait Orders {
    async fn get(&self, id: u64) -> u64;
}

fn main() {}

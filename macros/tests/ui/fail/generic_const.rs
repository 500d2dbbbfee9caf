use sinew::service;

#[service]
pub trait Orders {
    async fn get<const N: usize>(&self, id: [u8; N]) -> u64;
}

fn main() {}

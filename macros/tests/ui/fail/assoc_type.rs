use sinew::service;

#[service]
pub trait Orders {
    type Row;
    async fn get(&self, id: u64) -> u64;
}

pub struct Shop;

impl Orders for Shop {
    type Row = u64;
    async fn get(&self, id: u64) -> u64 {
        id
    }
}

fn main() {}

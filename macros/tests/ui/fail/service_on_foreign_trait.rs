use sinew::service;

pub trait Plain {
    fn get(&self, id: u64) -> u64;
}

pub struct Shop;

#[service]
impl Plain for Shop {
    fn get(&self, id: u64) -> u64 {
        id
    }
}

fn main() {}

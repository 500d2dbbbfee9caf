use sinew::service;

#[service]
pub trait Orders {
    fn get(&self, id: u64) -> u64;
}

fn main() {}

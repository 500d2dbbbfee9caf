use sinew::service;

#[service]
pub trait Orders {
    async unsafe fn get(&self, id: u64) -> u64;
}

fn main() {}

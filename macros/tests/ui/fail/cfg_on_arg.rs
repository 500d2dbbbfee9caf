use sinew::service;

#[service]
pub trait Orders {
    async fn get(&self, id: u64, #[cfg(all())] depth: u32) -> u64;
}

fn main() {}

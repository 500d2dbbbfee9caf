use sinew::service;

#[service]
pub trait Orders {
    async fn get(&self, id: u64) -> Result<u64, Box<dyn std::error::Error + Send + Sync>>;
}

fn main() {}

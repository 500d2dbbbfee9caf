use sinew::service;

#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct OrderError;

#[service]
pub trait Orders {
    async fn get(&self, id: u64) -> Result<u64, OrderError>;
}

fn main() {}

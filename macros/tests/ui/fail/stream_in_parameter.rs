use sinew::{Status, Streaming, service};

#[derive(serde::Serialize, serde::Deserialize)]
pub struct Page<T> {
    rows: T,
}

#[service]
pub trait Orders {
    async fn import(&self, page: Page<Streaming<u64>>) -> Result<u64, Status>;
}

fn main() {}

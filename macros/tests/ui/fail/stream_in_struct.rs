use sinew::{Status, Streaming, service};

pub struct Batch {
    pub rows: Streaming<u64>,
}

#[service]
pub trait Orders {
    async fn import(&self, batch: Batch) -> Result<u64, Status>;
}

fn main() {}

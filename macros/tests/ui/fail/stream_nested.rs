use sinew::{Status, Streaming, service};

#[service]
pub trait Orders {
    async fn import(&self, rows: Vec<Streaming<u64>>) -> Result<u64, Status>;
}

fn main() {}

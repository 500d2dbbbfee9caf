use sinew::{Status, Streaming, service};

#[service]
pub trait Orders {
    async fn import(&self, #[rpc(default)] rows: Streaming<u64>) -> Result<u64, Status>;
}

fn main() {}

use sinew::{Status, Streaming, service};

#[service]
pub trait Orders {
    #[rpc(idempotent)]
    async fn import(&self, rows: Streaming<u64>) -> Result<u64, Status>;
}

fn main() {}

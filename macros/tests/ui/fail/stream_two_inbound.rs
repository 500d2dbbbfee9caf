use sinew::{Status, Streaming, service};

#[service]
pub trait Orders {
    async fn join(&self, a: Streaming<u64>, b: Streaming<u64>) -> Result<u64, Status>;
}

fn main() {}

use sinew::{Status, Streaming, service};

#[service]
pub trait Orders {
    async fn watch(&self) -> Result<Option<Streaming<u64>>, Status>;
}

fn main() {}

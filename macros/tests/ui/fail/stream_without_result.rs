use sinew::{Streaming, service};

#[service]
pub trait Orders {
    async fn watch(&self) -> Streaming<u64>;
}

fn main() {}

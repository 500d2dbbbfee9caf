use sinew::{Status, Streaming, service};

pub struct Foo;

#[service]
pub trait Orders {
    async fn get(&self, rows: Streaming<Foo>) -> Result<u64, Status>;
}

fn main() {}

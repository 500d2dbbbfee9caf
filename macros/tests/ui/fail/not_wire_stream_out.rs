use sinew::{Status, Streaming, service};

pub struct Foo;

#[service]
pub trait Orders {
    async fn get(&self, id: u64) -> Result<Streaming<Foo>, Status>;
}

fn main() {}

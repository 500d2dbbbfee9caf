use sinew::{Status, service};

pub struct Foo;

#[service]
pub trait Orders {
    async fn get(&self, id: u64) -> Result<Foo, Status>;
}

fn main() {}

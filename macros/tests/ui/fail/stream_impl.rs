use sinew::{Status, service};

pub trait Stream {
    type Item;
}

#[service]
pub trait Orders {
    async fn watch(&self) -> Result<impl Stream<Item = u64>, Status>;
}

fn main() {}

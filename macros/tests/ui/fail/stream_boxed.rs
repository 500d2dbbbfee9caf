use sinew::{Status, service};

use std::pin::Pin;

pub trait Stream {
    type Item;
}

#[service]
pub trait Orders {
    async fn import(&self, rows: Pin<Box<dyn Stream<Item = u64> + Send>>) -> Result<u64, Status>;
}

fn main() {}

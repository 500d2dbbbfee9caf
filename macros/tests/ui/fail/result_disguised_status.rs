use sinew::{Status, service};

type Fallible = Result<u64, Status>;

#[service]
pub trait Orders {
    async fn get(&self, id: u64) -> Fallible;
}

fn main() {}

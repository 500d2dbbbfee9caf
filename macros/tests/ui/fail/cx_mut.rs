use sinew::{Cx, service};

#[service]
pub trait Orders {
    async fn get(&self, cx: &mut Cx, id: u64) -> u64;
}

fn main() {}

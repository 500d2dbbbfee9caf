use sinew::{Cx, service};

#[service]
pub trait Orders {
    async fn get(&self, cx: &Cx, id: u64, again: &Cx) -> u64;
}

fn main() {}

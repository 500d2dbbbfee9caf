use sinew::service;

pub struct Foo;

#[service]
pub trait Orders {
    async fn get(&self, id: u64) -> Foo;
}

fn main() {}

use sinew::service;

pub struct Foo;

#[service]
pub trait Orders {
    async fn get(&self, foo: &Foo) -> u64;
}

fn main() {}

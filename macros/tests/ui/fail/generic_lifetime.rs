use sinew::service;

#[service]
pub trait Orders {
    async fn get<'a>(&self, id: &'a str) -> u64;
}

fn main() {}

use sinew::service;

#[service(name = "Orders")]
pub trait Orders<'a> {
    async fn get(&self, id: u64) -> u64;
}

fn main() {}

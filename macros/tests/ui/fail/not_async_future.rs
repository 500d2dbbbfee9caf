use sinew::service;

#[service]
pub trait Orders {
    fn get(&self, id: u64) -> impl Future<Output = u64> + Send;
}

fn main() {}

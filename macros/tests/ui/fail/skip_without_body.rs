use sinew::service;

#[service(dyn)]
pub trait Orders {
    async fn get(&self, id: u64) -> u64;
    #[rpc(skip)]
    fn helper(&self) -> u64;
}

fn main() {}

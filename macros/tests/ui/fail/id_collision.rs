use sinew::service;

#[service(name = "8yn0iYCKYHlIj4-BwPqk")]
pub trait Orders {
    async fn get(&self, id: u64) -> u64;
    #[rpc(alias = "GReLUrM4wMqfg9yzV3KQ/get")]
    async fn read(&self, id: u64) -> u64;
}

fn main() {}

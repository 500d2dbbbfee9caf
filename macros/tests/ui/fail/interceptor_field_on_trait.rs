use sinew::service;

#[service]
#[interceptor(self.limiter)]
pub trait Orders {
    async fn get(&self, id: u64) -> u64;
}

fn main() {}

use sinew::service;

#[service]
pub trait Orders {
    async fn get(&self, id: u64) -> u64;
}

pub struct Shop {
    name: String,
}

#[service]
#[interceptor(self.name)]
impl Orders for Shop {
    async fn get(&self, id: u64) -> u64 {
        id
    }
}

fn main() {}

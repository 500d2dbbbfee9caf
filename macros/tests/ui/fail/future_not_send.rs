use sinew::service;

#[service]
pub trait Orders {
    async fn get(&self, id: u64) -> u64;
}

pub struct Shop;

impl Orders for Shop {
    async fn get(&self, id: u64) -> u64 {
        let shared = std::rc::Rc::new(id);
        std::future::ready(()).await;
        *shared
    }
}

fn main() {}

//! Borrowed, optional, defaulted, added and reserved arguments.

use sinew::service;

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Order {
    id: u64,
}

#[service]
pub trait Orders {
    async fn borrow(&self, text: &str, bytes: &[u8], order: &Order, maybe: Option<&str>, raw: Option<&[u8]>) -> u64;
    async fn evolve(
        &self,
        id: u64,
        #[rpc(reserved)] _old: (),
        #[rpc(since = 2)] depth: Option<u32>,
        #[rpc(since = 3, default)] width: u32,
        #[rpc(default = Order { id: 7 })] order: Order,
        #[rpc(default = "x")] name: &str,
        #[rpc(default)] tail: &[u8],
    ) -> u64;
    async fn bytes(&self, #[rpc(allow(vec_u8))] data: Vec<u8>) -> u64;
    #[rpc(allow(vec_u8))]
    async fn raw(&self, data: Vec<u8>) -> Vec<u8>;
}

pub struct Shop;

impl Orders for Shop {
    async fn borrow(&self, text: &str, bytes: &[u8], order: &Order, maybe: Option<&str>, raw: Option<&[u8]>) -> u64 {
        let sizes = text.len() + bytes.len() + maybe.map_or(0, str::len) + raw.map_or(0, <[u8]>::len);
        sizes as u64 + order.id
    }
    async fn evolve(&self, id: u64, (): (), depth: Option<u32>, width: u32, order: Order, name: &str, tail: &[u8]) -> u64 {
        id + u64::from(depth.unwrap_or(0) + width) + order.id + (name.len() + tail.len()) as u64
    }
    async fn bytes(&self, data: Vec<u8>) -> u64 {
        data.len() as u64
    }
    async fn raw(&self, data: Vec<u8>) -> Vec<u8> {
        data
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let orders = OrdersClient::local(Shop);
    let call = orders.borrow("ab", &[1], &Order { id: 10 }, Some("c"), None);
    assert_eq!(call.await.unwrap(), 14);
    let call = orders.evolve(1, None, 2, Order { id: 3 }, "four", &[5]);
    assert_eq!(call.await.unwrap(), 11);
    assert_eq!(orders.raw(vec![1, 2]).await.unwrap(), [1, 2]);
}

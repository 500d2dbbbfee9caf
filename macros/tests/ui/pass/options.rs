//! Names, aliases, time-outs, meta, execution, encoding: what the method table says.

use sinew::service;

#[service(name = "shop.Orders", encoding = "compact")]
pub trait Orders {
    /// Reads one order.
    #[rpc(idempotent, timeout = "1m 30s", alias = "fetch", alias = "old.Orders/get", since = 2)]
    #[rpc(meta(role = "admin", cost = "3"))]
    async fn get(&self, id: u64) -> u64;
    #[rpc(name = "connect", spawn)]
    async fn open(&self, id: u64, #[rpc(since = 2)] depth: Option<u32>) -> u64;
    #[rpc(blocking)]
    async fn r#type(&self) -> u64;
}

fn main() {
    let [get, open, kind] = OrdersClient::METHODS else { panic!("three methods") };
    assert_eq!((get.path(), open.path(), kind.path()), ("shop.Orders/get", "shop.Orders/connect", "shop.Orders/type"));
    assert_eq!(get.id(), sinew::wire::method_id("shop.Orders/get"));
}

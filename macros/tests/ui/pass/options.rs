//! Names, aliases, time-outs, meta, execution, encoding, arguments: what the method table says, and what is sent.

use std::time::Duration;

use sinew::{Encoding, Execution, MethodKind, Status, Streaming, service};

#[service(name = "shop.Orders", encoding = "compact")]
pub trait Orders {
    /// Reads one order.
    #[rpc(idempotent, timeout = "1m 30s", alias = "fetch", alias = "old.Orders/get", since = 2)]
    #[rpc(meta(role = "admin", cost = "3"))]
    async fn get(&self, id: u64) -> u64;
    #[rpc(name = "connect", spawn)]
    async fn open(
        &self,
        id: u64,
        #[rpc(reserved)] _old: (),
        #[rpc(since = 2)] depth: Option<u32>,
        #[rpc(default = 7)] width: u32,
        #[rpc(default)] name: &str,
    ) -> u64;
    #[rpc(blocking)]
    async fn r#type(&self) -> u64;
    async fn watch(&self, rows: Streaming<u64>) -> Result<Streaming<u64>, Status>;
}

/// The same service when `open` had one argument, in the default encoding.
#[service(name = "shop.Orders")]
pub trait OldOrders {
    #[rpc(name = "connect")]
    async fn open(&self, id: u64) -> u64;
    async fn fetch(&self, id: u64) -> u64;
}

pub struct Shop;

impl Orders for Shop {
    async fn get(&self, id: u64) -> u64 {
        id + 1
    }
    async fn open(&self, id: u64, (): (), depth: Option<u32>, width: u32, name: &str) -> u64 {
        assert_eq!((depth, name), (None, ""));
        id + u64::from(width)
    }
    async fn r#type(&self) -> u64 {
        0
    }
    async fn watch(&self, rows: Streaming<u64>) -> Result<Streaming<u64>, Status> {
        Ok(rows)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let [get, open, kind, watch] = OrdersClient::METHODS else { panic!("four methods") };
    assert_eq!((get.path(), open.path(), kind.path()), ("shop.Orders/get", "shop.Orders/connect", "shop.Orders/type"));
    assert_eq!((get.service(), get.name()), ("shop.Orders", "get"));
    assert_eq!(get.id(), sinew::wire::method_id("shop.Orders/get"));
    assert_eq!((get.kind(), watch.kind()), (MethodKind::Unary, MethodKind::Bidirectional));

    assert_eq!((get.is_idempotent(), open.is_idempotent()), (true, false));
    assert_eq!((get.timeout(), open.timeout()), (Some(Duration::from_secs(90)), None));
    assert_eq!((get.added_in(), open.added_in()), (2, 0));
    assert_eq!((get.summary(), open.summary()), ("Reads one order.", ""));
    assert_eq!(get.meta_pairs(), [("role", "admin"), ("cost", "3")]);
    assert_eq!((get.meta_value("role"), get.meta_value("cost"), get.meta_value("x")), (Some("admin"), Some("3"), None));
    assert_eq!(open.meta_pairs(), []);

    let aliases: Vec<_> = get.other_names().iter().map(|alias| (alias.path(), alias.id())).collect();
    let named = |path| (path, sinew::wire::method_id(path));
    assert_eq!(aliases, [named("shop.Orders/fetch"), named("old.Orders/get")]);
    assert_eq!(open.other_names(), []);

    assert_eq!((get.runs(), open.runs(), kind.runs()), (Execution::Inline, Execution::Spawn, Execution::Blocking));
    assert_eq!(get.wire_encoding(), Encoding::Compact);
    assert_eq!(OldOrdersClient::METHODS[0].wire_encoding(), Encoding::Named);

    let arguments: Vec<_> = open.arguments().iter().map(|arg| (arg.name(), arg.added_in())).collect();
    assert_eq!(arguments, [("id", 0), ("_old", 0), ("depth", 2), ("width", 0), ("name", 0)]);
    assert_eq!(kind.arguments(), []);
    assert_eq!(watch.arguments(), [], "a stream is no argument of the message");

    // What the sender leaves out is filled by the rules of the argument; an alias reaches the same method.
    let orders = OrdersClient::local(Shop);
    let old = OldOrdersClient::from_channel(orders.channel().clone());
    assert_eq!(old.open(1).await.unwrap(), 8);
    assert_eq!(old.fetch(1).await.unwrap(), 2);
    assert_eq!(orders.open(1, None, 2, "").await.unwrap(), 3);
}

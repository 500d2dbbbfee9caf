//! What becomes of a status that another server sent, when a handler returns it to its own caller.

use serde::{Deserialize, Serialize};
use sinew::{AppError, CallError, Code, Cx, Server, Status, Streaming, service};

use crate::support::fixture::Fixture;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, AppError, thiserror::Error)]
pub(crate) enum StockError {
    #[error("no item {0}")]
    #[rpc(code = NotFound)]
    Missing(u32),
}

#[service(name = "passed.Stock")]
pub(crate) trait Stock {
    async fn take(&self, cx: &Cx, item: u32) -> Result<u32, StockError>;
    async fn watch(&self, item: u32) -> Result<Streaming<u32>, Status>;
}

struct Shelf;

impl Stock for Shelf {
    async fn take(&self, cx: &Cx, item: u32) -> Result<u32, StockError> {
        cx.set_trailer("shelf", "7").expect("it is valid metadata");
        Err(StockError::Missing(item))
    }
    async fn watch(&self, item: u32) -> Result<Streaming<u32>, Status> {
        let items = [
            Ok(1),
            Err(StockError::Missing(item).into_status().with_details(vec![9])),
        ];
        Ok(Streaming::from(futures_util::stream::iter(items)))
    }
}

/// Another service, which happens to have an error of the same shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, AppError, thiserror::Error)]
pub(crate) enum OrderError {
    #[error("no order {0}")]
    #[rpc(code = NotFound)]
    Missing(u32),
    #[error(transparent)]
    #[rpc(status)]
    #[serde(skip)]
    Other(Status),
}

#[service(name = "passed.Orders")]
pub(crate) trait Orders {
    async fn place(&self, item: u32) -> Result<u32, OrderError>;
    async fn plain(&self, item: u32, on: bool) -> Result<u32, Status>;
    async fn watch(&self, item: u32) -> Result<Streaming<u32>, Status>;
}

struct Desk(StockClient);

fn status(error: CallError<StockError>) -> Status {
    match error {
        CallError::App(error) => error.into_status(),
        CallError::Status(status) => status,
    }
}

impl Orders for Desk {
    async fn place(&self, item: u32) -> Result<u32, OrderError> {
        // The raw status, as code that knows nothing of the error's type has it.
        let found = self.0.channel().clone();
        let client = RawStockClient::from_channel(found);
        client.take(item).await.map_err(OrderError::Other)
    }
    async fn plain(&self, item: u32, on: bool) -> Result<u32, Status> {
        let client = RawStockClient::from_channel(self.0.channel().clone());
        client.take(item).await.map_err(|status| if on { status.pass_on() } else { status })
    }
    async fn watch(&self, item: u32) -> Result<Streaming<u32>, Status> {
        self.0.watch(item).await
    }
}

#[service(name = "passed.Stock")]
pub(crate) trait RawStock {
    async fn take(&self, item: u32) -> Result<u32, Status>;
}

#[tokio::test]
async fn what_was_meant_for_a_server_does_not_reach_its_callers() {
    let stock = Fixture::Mem.serve(Server::builder().service(StockServer::new(Shelf))).await;
    let desk = Desk(StockClient::from_channel(stock.channel.clone()));
    let served = Fixture::Tcp.serve(Server::builder().service(OrdersServer::new(desk))).await;
    let orders = OrdersClient::from_channel(served.channel.clone());
    let desk = Desk(StockClient::from_channel(stock.channel.clone()));
    for orders in [orders, OrdersClient::local(desk)] {
        let error = orders.place(7).await.unwrap_err();
        let CallError::Status(told) = error else {
            panic!("taken for an error of this service: {error:?}");
        };
        assert_eq!((told.code(), told.message()), (Code::NotFound, "no item 7"));
        assert!(told.metadata().is_empty() && told.app_bytes().is_empty(), "{told:?}");

        let told = orders.plain(7, false).await.unwrap_err();
        assert!(told.metadata().is_empty() && told.app_bytes().is_empty(), "{told:?}");
        let told = orders.plain(7, true).await.unwrap_err();
        assert_eq!(told.app::<StockError>(), Some(StockError::Missing(7)), "on purpose");
        assert_eq!(told.metadata().get("shelf"), Some("7"));

        let mut items = orders.watch(7).await.unwrap();
        assert_eq!(items.next().await.unwrap().unwrap(), 1);
        let told = items.next().await.unwrap().unwrap_err();
        assert_eq!(told.code(), Code::NotFound);
        assert!(told.details().is_empty() && told.app_bytes().is_empty(), "{told:?}");
    }
    let direct = StockClient::from_channel(stock.channel.clone());
    assert_eq!(status(direct.take(7).await.unwrap_err()).message(), "no item 7");
}

//! Plain values, `Status`, errors of one's own, and aliases of `Result`.

use sinew::{AppError, CallError, Code, Status, service};

#[derive(Debug, thiserror::Error, serde::Serialize, serde::Deserialize, AppError)]
pub enum OrderError {
    #[error("no such order")]
    #[rpc(code = NotFound)]
    NotFound,
}

pub type Result<T, E = OrderError> = std::result::Result<T, E>;

pub mod io {
    pub type Result<T> = std::result::Result<T, sinew::Status>;
}

#[service]
pub trait Orders {
    async fn count(&self) -> u64;
    async fn ping(&self);
    async fn touch(&self) -> ();
    async fn status(&self) -> Result<u64, Status>;
    async fn own(&self) -> Result<u64, OrderError>;
    async fn alias(&self) -> Result<u64>;
    async fn other_alias(&self) -> io::Result<u64>;
    async fn tuple(&self) -> (u64, Option<String>);
}

pub struct Shop;

impl Orders for Shop {
    async fn count(&self) -> u64 {
        1
    }
    async fn ping(&self) {}
    async fn touch(&self) {}
    async fn status(&self) -> Result<u64, Status> {
        Err(Status::unimplemented("status"))
    }
    async fn own(&self) -> Result<u64, OrderError> {
        Err(OrderError::NotFound)
    }
    async fn alias(&self) -> Result<u64> {
        Err(OrderError::NotFound)
    }
    async fn other_alias(&self) -> io::Result<u64> {
        Ok(2)
    }
    async fn tuple(&self) -> (u64, Option<String>) {
        (1, None)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let orders = OrdersClient::local(Shop);
    let count: Result<u64, Status> = orders.count().await;
    assert_eq!(count.unwrap(), 1);
    orders.ping().await.unwrap();
    orders.touch().await.unwrap();
    assert_eq!(orders.status().await.unwrap_err().code(), Code::Unimplemented);
    let own: Result<u64, CallError<OrderError>> = orders.own().await;
    assert!(matches!(own, Err(CallError::App(OrderError::NotFound))));
    assert!(matches!(orders.alias().await, Err(CallError::App(OrderError::NotFound))));
    let other: Result<u64, Status> = orders.other_alias().await;
    assert_eq!(other.unwrap(), 2);
    assert_eq!(orders.tuple().await.unwrap(), (1, None));
}

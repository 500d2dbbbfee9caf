//! Bodies that use `self`, arguments, `?`, `return` and other methods of the trait.

#![deny(warnings)]

use sinew::{AppError, Cx, Status, service};

#[derive(Debug, thiserror::Error, serde::Serialize, serde::Deserialize, AppError)]
pub enum OrderError {
    #[error("{0}")]
    #[rpc(status)]
    #[serde(skip)]
    Rpc(#[from] Status),
}

#[service]
pub trait Orders {
    async fn get(&self, id: u64) -> Result<u64, OrderError>;
    async fn twice(&self, cx: &Cx, id: u64, name: &str) -> Result<u64, OrderError> {
        let _ = (cx, name);
        if id == 0 {
            return Ok(0);
        }
        let one = self.get(id).await?;
        Ok(2 * one)
    }
    async fn quote(&self, id: u64) -> Result<u64, OrderError> {
        let _ = id;
        Err(Status::unimplemented("quote").into())
    }
    async fn boxed(&self) -> Option<Box<[u64]>> {
        Some(Box::new([1]))
    }
    async fn never(&self) -> u64 {
        panic!("nobody calls this")
    }
    async fn nothing(&self) {}
}

pub struct Shop;

impl Orders for Shop {
    async fn get(&self, id: u64) -> Result<u64, OrderError> {
        Ok(id)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let orders = OrdersClient::local(Shop);
    assert_eq!(orders.twice(3, "a").await.unwrap(), 6);
    assert_eq!(orders.twice(0, "a").await.unwrap(), 0);
    assert!(orders.quote(1).await.is_err());
    assert_eq!(orders.boxed().await.unwrap().unwrap()[0], 1);
    orders.nothing().await.unwrap();
}

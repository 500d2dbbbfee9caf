//! A client where an implementation is expected.

use sinew::{AppError, Cx, Status, Streaming, service};

#[derive(Debug, thiserror::Error, serde::Serialize, serde::Deserialize, AppError)]
pub enum OrderError {
    #[error("no such order")]
    #[rpc(code = NotFound)]
    NotFound,
    #[error("the call failed: {0}")]
    #[rpc(status)]
    #[serde(skip)]
    Rpc(#[from] Status),
}

#[service(transparent)]
pub trait Orders {
    async fn get(&self, cx: &Cx, id: u64, name: &str, #[rpc(reserved)] _old: ()) -> Result<u64, OrderError>;
    async fn import(&self, rows: Streaming<u64>) -> Result<u64, Status>;
    async fn quote(&self, id: u64) -> Result<u64, OrderError> {
        let _ = id;
        Err(Status::unimplemented("quote"))?
    }
}

pub struct Shop;

impl Orders for Shop {
    async fn get(&self, _: &Cx, id: u64, name: &str, (): ()) -> Result<u64, OrderError> {
        if id == 0 { Err(OrderError::NotFound) } else { Ok(id + name.len() as u64) }
    }
    async fn import(&self, _: Streaming<u64>) -> Result<u64, Status> {
        Ok(0)
    }
}

async fn twice(orders: &impl Orders, cx: &Cx, id: u64) -> Result<u64, OrderError> {
    Ok(2 * orders.get(cx, id, "a", ()).await?)
}

async fn through(cx: &Cx, client: &OrdersClient) {
    assert_eq!(twice(client, cx, 1).await.unwrap(), 4);
    assert!(matches!(twice(client, cx, 0).await, Err(OrderError::NotFound)));
    assert!(matches!(Orders::quote(client, 1).await, Err(OrderError::Rpc(_))));
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let cx = Cx::default();
    assert_eq!(twice(&Shop, &cx, 1).await.unwrap(), 4);
    through(&cx, &OrdersClient::local(Shop)).await;
}

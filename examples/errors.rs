//! Typed errors: what a handler returns is what the caller matches, and `?` works on both sides.

use serde::{Deserialize, Serialize};
use sinew::{AppError, CallError, Code, Server, Status, service};

/// Why an order was not placed. The codes are what proxies, metrics and retries see.
#[derive(Debug, PartialEq, thiserror::Error, Serialize, Deserialize, AppError)]
#[non_exhaustive]
pub enum OrderError {
    /// There is no such thing.
    #[error("there is no {0}")]
    #[rpc(code = NotFound)]
    NotFound(String),
    /// There is too little of it.
    #[error("only {left} left")]
    #[rpc(code = FailedPrecondition, retry = never)]
    OutOfStock {
        /// How much there is.
        left: u32,
    },
}

/// A shop.
#[service]
pub trait Shop {
    /// Orders `count` of `sku`; returns the order's number.
    async fn order(&self, sku: &str, count: u32) -> Result<u64, OrderError>;
    /// What is left of `sku`.
    async fn stock(&self, sku: &str) -> Result<u32, Status>;
}

struct TeaShop;

impl TeaShop {
    fn find(sku: &str) -> Result<u32, OrderError> {
        let known = (sku == "tea").then_some(3);
        known.ok_or_else(|| OrderError::NotFound(sku.to_owned()))
    }
}

impl Shop for TeaShop {
    async fn order(&self, sku: &str, count: u32) -> Result<u64, OrderError> {
        match Self::find(sku)? {
            left if count > left => Err(OrderError::OutOfStock { left }),
            _ => Ok(1),
        }
    }

    async fn stock(&self, sku: &str) -> Result<u32, Status> {
        // An application error is a `Status` too, with its code.
        Ok(Self::find(sku)?)
    }
}

/// Orders what is wanted, or as much of it as there is.
async fn order_up_to(shop: &ShopClient, sku: &str, count: u32) -> Result<u64, CallError<OrderError>> {
    match shop.order(sku, count).await {
        Err(CallError::App(OrderError::OutOfStock { left })) => shop.order(sku, left).await,
        other => other,
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::builder().service(ShopServer::new(TeaShop)).bind("127.0.0.1:0").start().await?;
    let shop = ShopClient::connect(&server.target()).await?;

    assert_eq!(order_up_to(&shop, "tea", 5).await?, 1);
    let missing = OrderError::NotFound("rum".to_owned());
    assert_eq!(order_up_to(&shop, "rum", 1).await, Err(CallError::App(missing)));

    // Whoever does not know the type still has code and text; whoever does can read the error back.
    let status = shop.stock("rum").await.err().ok_or("rum was found")?;
    assert_eq!((status.code(), status.message()), (Code::NotFound, "there is no rum"));
    assert!(matches!(status.app(), Some(OrderError::NotFound(sku)) if sku == "rum"));
    Ok(())
}

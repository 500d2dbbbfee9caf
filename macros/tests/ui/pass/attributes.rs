//! `#[cfg]`, documentation, `#[deprecated]` and `#[must_use]` reach everything that is generated.

#![deny(warnings)]

use sinew::service;

#[service(dyn, mock)]
pub trait Orders {
    /// Counts the orders.
    ///
    /// Slowly.
    #[must_use = "counting is slow"]
    async fn count(&self) -> u64;
    #[deprecated = "use `count`"]
    async fn total(&self) -> u64 {
        0
    }
    #[cfg(any())]
    async fn hidden(&self, what: DoesNotExist) -> u64;
    #[cfg(any())]
    async fn either(&self, id: u64) -> u64;
    #[cfg(all())]
    async fn either(&self, id: &str) -> u64;
}

/// Kept for old callers.
#[service(mock)]
#[deprecated = "use `Orders`"]
pub trait OldOrders {
    async fn count(&self) -> u64;
}

#[expect(deprecated)]
impl OldOrders for Shop {
    async fn count(&self) -> u64 {
        3
    }
}

#[service(dyn, mock)]
#[cfg(any())]
pub trait Absent {
    async fn hidden(&self, what: DoesNotExist) -> u64;
}

pub struct Shop;

impl Orders for Shop {
    async fn count(&self) -> u64 {
        3
    }
    async fn either(&self, id: &str) -> u64 {
        id.len() as u64
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let specs = OrdersClient::METHODS;
    let paths: Vec<&str> = specs.iter().map(|spec| spec.path()).collect();
    assert_eq!(paths, ["Orders/count", "Orders/total", "Orders/either"]);
    let [count, total, either] = specs else { panic!("three methods") };
    assert_eq!((count.summary(), total.summary(), either.summary()), ("Counts the orders.", "", ""));
    assert_eq!((count.is_deprecated(), total.is_deprecated()), (false, true));

    let client = OrdersClient::local(Shop);
    assert_eq!(client.either("abc").await.unwrap(), 3);
    // Each expectation fails the build if the lint stays silent. What `#[must_use]` says is held by `many/must_use`.
    #[expect(deprecated)]
    let total = client.total().await.unwrap();
    assert_eq!(total, 0);
    #[expect(deprecated)]
    let old = OldOrdersClient::local(Shop);
    assert_eq!(old.count().await.unwrap(), 3);
    #[expect(unused_must_use)]
    client.count();
}

//! A handler made of closures.

use sinew::{Code, Cx, Status, service};

#[service(mock, dyn)]
pub trait Orders {
    async fn get(&self, id: u64, expand: Option<u64>) -> Result<u64, Status>;
    async fn count(&self, cx: &Cx, prefix: &str, #[rpc(reserved)] _old: ()) -> u64;
    async fn ping(&self);
}

async fn double(orders: &impl Orders, id: u64) -> Result<u64, Status> {
    Ok(2 * orders.get(id, None).await?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mock = OrdersMock::new().get(|id, _| async move { Ok(id + 1) }).count(|_, prefix| {
        let size = prefix.len() as u64;
        async move { size }
    });
    assert_eq!(double(&mock, 1).await.unwrap(), 4);
    assert_eq!(double(&OrdersMock::default(), 1).await.unwrap_err().code(), Code::Unimplemented);
    let orders = OrdersClient::local(mock.clone());
    assert_eq!(orders.count("abc").await.unwrap(), 3);
    let status = orders.ping().await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(status.to_string().contains("ping"), "{status}");
}

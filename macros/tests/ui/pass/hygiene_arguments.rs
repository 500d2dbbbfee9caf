//! Arguments named like what generated code might name its own.

use sinew::{Status, Streaming, service};

#[service(dyn, mock, transparent)]
pub trait Orders {
    async fn all(
        &self,
        cx: u64,
        next: u64,
        args: u64,
        self_: u64,
        spec: u64,
        request: u64,
        payload: u64,
        links: u64,
        channel: u64,
        call: u64,
        answer: u64,
    ) -> Result<u64, Status>;
    async fn streams(&self, inbound: Streaming<u64>, stream: u64, respond: u64) -> Result<u64, Status>;
    async fn r#match(&self, r#type: u64, f: u64) -> Result<u64, Status>;
    async fn run(&self, status: u64) -> Result<u64, Status>;
    async fn call(&self, x: u64) -> Result<u64, Status>;
    async fn methods(&self) -> Result<u64, Status>;
    async fn slot(&self) -> Result<u64, Status>;
}

pub struct Shop;

impl Orders for Shop {
    async fn all(
        &self,
        cx: u64,
        next: u64,
        args: u64,
        self_: u64,
        spec: u64,
        request: u64,
        payload: u64,
        links: u64,
        channel: u64,
        call: u64,
        answer: u64,
    ) -> Result<u64, Status> {
        Ok(cx + next + args + self_ + spec + request + payload + links + channel + call + answer)
    }
    async fn streams(&self, _: Streaming<u64>, stream: u64, respond: u64) -> Result<u64, Status> {
        Ok(stream + respond)
    }
    async fn r#match(&self, r#type: u64, f: u64) -> Result<u64, Status> {
        Ok(r#type + f)
    }
    async fn run(&self, status: u64) -> Result<u64, Status> {
        Ok(status)
    }
    async fn call(&self, x: u64) -> Result<u64, Status> {
        Ok(x)
    }
    async fn methods(&self) -> Result<u64, Status> {
        Ok(1)
    }
    async fn slot(&self) -> Result<u64, Status> {
        Ok(2)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let orders = OrdersClient::local(Shop);
    assert_eq!(orders.all(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1).await.unwrap(), 11);
    assert_eq!(orders.r#match(1, 2).await.unwrap(), 3);
}

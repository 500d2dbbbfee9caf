//! The runtime under another path.

mod rpc {
    pub use ::sinew as framework;
}

use rpc::framework::{AppError, Cx, Next, Outcome, Status, interceptor, service};

mod sinew {}

#[derive(Debug, thiserror::Error, serde::Serialize, serde::Deserialize, AppError)]
#[rpc(crate = crate::rpc::framework)]
pub enum OrderError {
    #[error("no such order")]
    NotFound,
}

#[interceptor(crate = crate::rpc::framework)]
async fn audit(cx: &mut Cx, next: impl Next) -> Outcome {
    next.run(cx).await
}

#[service(crate = crate::rpc::framework, dyn, mock)]
#[interceptor(audit)]
pub trait Orders {
    async fn get(&self, id: u64) -> Result<u64, OrderError>;
    async fn put(&self, id: u64) -> Result<u64, Status>;
}

pub struct Shop;

#[service(crate = crate::rpc::framework)]
#[interceptor(audit)]
impl Orders for Shop {
    async fn get(&self, id: u64) -> Result<u64, OrderError> {
        Ok(id)
    }
    async fn put(&self, id: u64) -> Result<u64, Status> {
        Ok(id)
    }
}

fn main() {}

use sinew::{AppError, service};

#[derive(Debug, thiserror::Error, serde::Serialize, serde::Deserialize, AppError)]
pub enum OrderError {
    #[error("no such order")]
    #[rpc(code = NotFound)]
    NotFound,
}

#[service(transparent)]
pub trait Orders {
    async fn get(&self, id: u64) -> Result<u64, OrderError>;
}

fn main() {}

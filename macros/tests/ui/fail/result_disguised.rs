use sinew::{AppError, service};

#[derive(Debug, thiserror::Error, serde::Serialize, serde::Deserialize, AppError)]
pub enum OrderError {
    #[error("no such order")]
    NotFound,
}

type Fallible = Result<u64, OrderError>;

#[service]
pub trait Orders {
    async fn get(&self, id: u64) -> Fallible;
}

fn main() {}

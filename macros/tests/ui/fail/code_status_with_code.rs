use sinew::{AppError, Status};

#[derive(Debug, thiserror::Error, serde::Serialize, serde::Deserialize, AppError)]
pub enum OrderError {
    #[error("no such order")]
    #[rpc(status, code = NotFound)]
    #[serde(skip)]
    Rpc(Status),
}

fn main() {}

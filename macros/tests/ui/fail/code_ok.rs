use sinew::AppError;

#[derive(Debug, thiserror::Error, serde::Serialize, serde::Deserialize, AppError)]
pub enum OrderError {
    #[error("no such order")]
    #[rpc(code = Ok)]
    NotFound,
}

fn main() {}

use sinew::AppError;

#[derive(Debug, thiserror::Error, serde::Serialize, serde::Deserialize, AppError)]
#[rpc(code = NotFound)]
pub enum OrderError {
    #[error("no such order")]
    NotFound,
}

fn main() {}

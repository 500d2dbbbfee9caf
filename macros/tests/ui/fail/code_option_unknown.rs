use sinew::AppError;

#[derive(Debug, thiserror::Error, serde::Serialize, serde::Deserialize, AppError)]
pub enum OrderError {
    #[error("no such order")]
    #[rpc(cod = NotFound)]
    NotFound,
}

fn main() {}

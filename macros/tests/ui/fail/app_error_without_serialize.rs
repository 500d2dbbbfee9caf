use sinew::AppError;

#[derive(Debug, thiserror::Error, AppError)]
pub enum OrderError {
    #[error("no such order")]
    NotFound,
}

fn main() {}

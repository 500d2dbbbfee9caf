use sinew::AppError;

#[derive(Debug, serde::Serialize, serde::Deserialize, AppError)]
pub enum OrderError {
    NotFound,
}

fn main() {}

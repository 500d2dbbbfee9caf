use sinew::{AppError, service};

#[derive(Debug, serde::Serialize, serde::Deserialize, AppError)]
pub struct Status;

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a status of an order")
    }
}

#[service]
pub trait Orders {
    async fn get(&self, id: u64) -> Result<u64, Status>;
}

fn main() {}

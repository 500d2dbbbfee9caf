use sinew::service;

mod anyhow {
    pub struct Error;
}

#[service]
pub trait Orders {
    async fn get(&self, id: u64) -> Result<u64, anyhow::Error>;
}

fn main() {}

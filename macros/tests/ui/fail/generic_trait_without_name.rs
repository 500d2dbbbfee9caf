use sinew::service;

#[service]
pub trait Orders<T: serde::Serialize + serde::de::DeserializeOwned + Send + 'static> {
    async fn get(&self, id: T) -> u64;
}

fn main() {}

//! A trait with parameters; each instantiation is a service.

use sinew::{Status, Streaming, service};

#[service(name = "shop.Store", transparent, dyn, mock)]
pub trait Store<T: Clone + Sync, const N: usize>
where
    T: serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
{
    async fn get(&self, id: &T) -> Result<T, Status>;
    async fn all(&self) -> Result<Streaming<T>, Status>;
    async fn count(&self, items: Vec<T>) -> Result<u64, Status>;
}

pub struct Shop;

impl Store<u64, 3> for Shop {
    async fn get(&self, id: &u64) -> Result<u64, Status> {
        Ok(*id)
    }
    async fn all(&self) -> Result<Streaming<u64>, Status> {
        Err(Status::unimplemented("all"))
    }
    async fn count(&self, items: Vec<u64>) -> Result<u64, Status> {
        Ok(items.len() as u64)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let store = StoreClient::<u64, 3>::local(Shop);
    assert_eq!(store.get(&7).await.unwrap(), 7);
    assert_eq!(store.count(vec![1, 2]).await.unwrap(), 2);
    assert_eq!(StoreServer::<Shop, u64, 3>::METHODS.len(), 3);
    let object: std::sync::Arc<dyn DynStore<u64, 3>> = std::sync::Arc::new(Shop);
    assert_eq!(object.get(&1).await.unwrap(), 1);
}

//! `#[service]` on an implementation that stacks nothing: it asks whether the trait is a service, whatever generics stand around it.

#![deny(warnings)]

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sinew::service;

#[service(name = "test.Store")]
pub trait Store<T>
where
    T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
{
    async fn get(&self) -> T;
}

pub struct Shelf<T, const N: usize>([T; N]);

#[service]
impl<T, const N: usize> Store<T> for Shelf<T, N>
where
    T: Serialize + DeserializeOwned + Clone + Debug + Send + Sync + 'static,
{
    async fn get(&self) -> T {
        self.0[0].clone()
    }
}

mod elsewhere {
    #[sinew::service]
    pub trait Plain {
        async fn count(&self) -> u64;
    }
}

#[service]
impl elsewhere::Plain for Shelf<u64, 2> {
    async fn count(&self) -> u64 {
        self.0.len() as u64
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let store = StoreClient::local(Shelf([7_u64, 8]));
    assert_eq!(store.get().await.unwrap(), 7);
    assert_eq!(elsewhere::PlainClient::local(Shelf([7, 8])).count().await.unwrap(), 2);
}

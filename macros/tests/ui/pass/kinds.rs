//! All four kinds of streams, with and without the context.

use sinew::{Cx, Status, Streaming, service};

#[service(name = "shop.Feed")]
pub trait Feed {
    async fn one(&self, cx: &Cx, id: u64) -> Result<u64, Status>;
    async fn watch(&self, topic: &str) -> Result<Streaming<u64>, Status>;
    async fn import(&self, rows: Streaming<u64>) -> Result<u64, Status>;
    async fn chat(&self, cx: &Cx, room: &str, lines: Streaming<String>) -> Result<Streaming<String>, Status>;
}

pub struct Echo;

impl Feed for Echo {
    async fn one(&self, _: &Cx, id: u64) -> Result<u64, Status> {
        Ok(id)
    }
    async fn watch(&self, _: &str) -> Result<Streaming<u64>, Status> {
        Err(Status::unimplemented("watch"))
    }
    async fn import(&self, _: Streaming<u64>) -> Result<u64, Status> {
        Err(Status::unimplemented("import"))
    }
    async fn chat(&self, _: &Cx, _: &str, lines: Streaming<String>) -> Result<Streaming<String>, Status> {
        Ok(lines)
    }
}

fn main() {
    let kinds: Vec<(bool, bool)> =
        FeedClient::METHODS.iter().map(|spec| (spec.kind().client_streams(), spec.kind().server_streams())).collect();
    assert_eq!(kinds, [(false, false), (false, true), (true, false), (true, true)]);
    assert_eq!(FeedServer::<Echo>::METHODS.len(), 4);
    assert_eq!((FeedServer::<Echo>::NAME, FeedClient::NAME), ("shop.Feed", "shop.Feed"));
}

//! A service behind a trait object, whose stacked interceptors run all the same.

use std::sync::Arc;

use std::sync::Mutex;

use sinew::{Cx, Next, Outcome, interceptor, service};

static TRAIL: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn mark(step: &str) {
    TRAIL.lock().unwrap().push(step.to_owned());
}

fn trail() -> String {
    std::mem::take(&mut *TRAIL.lock().unwrap()).join(" ")
}

#[interceptor]
async fn audit(cx: &mut Cx, next: impl Next) -> Outcome {
    mark("audit");
    next.run(cx).await
}

#[interceptor]
async fn trace(cx: &mut Cx, next: impl Next) -> Outcome {
    mark("trace");
    next.run(cx).await
}

#[interceptor]
async fn role(cx: &mut Cx, next: impl Next, name: &'static str) -> Outcome {
    mark(name);
    next.run(cx).await
}

#[service(dyn)]
pub trait Orders {
    async fn get(&self, cx: &Cx, id: u64, name: &str, maybe: Option<&str>, #[rpc(reserved)] _old: ()) -> u64;
    async fn ping(&self);
    #[rpc(skip)]
    fn helper(&self) -> u64 {
        1
    }
}

pub struct Shop;

#[service]
#[interceptor(audit)]
impl Orders for Shop {
    #[interceptor(role("method"))]
    async fn get(&self, _: &Cx, id: u64, name: &str, maybe: Option<&str>, (): ()) -> u64 {
        id + (name.len() + maybe.map_or(0, str::len)) as u64
    }
    async fn ping(&self) {}
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let object: Arc<dyn DynOrders> = Arc::new(Shop);
    assert_eq!(object.get(&Cx::default(), 1, "a", None, ()).await, 2);
    assert_eq!(trail(), "");
    let orders = OrdersClient::local(object.clone());
    assert_eq!(orders.get(1, "a", Some("b")).await.unwrap(), 3);
    assert_eq!(trail(), "audit method");
    orders.ping().await.unwrap();
    assert_eq!(object.helper(), 1);
}

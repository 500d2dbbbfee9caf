//! A method that is configured away takes its constructors along, and the others keep theirs.

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

#[service]
pub trait Orders {
    #[cfg(any())]
    #[interceptor(role("gone"))]
    async fn gone(&self) -> u64;
    #[interceptor(role("trait-method"))]
    async fn get(&self, id: u64) -> u64;
}

pub struct Shop;

#[service]
impl Orders for Shop {
    #[cfg(any())]
    #[interceptor(does_not_exist("gone"), trace)]
    async fn gone(&self) -> u64 {
        1
    }
    #[cfg(all())]
    #[interceptor(role("method"), audit, trace)]
    async fn get(&self, id: u64) -> u64 {
        id
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    assert_eq!(OrdersClient::local(Shop).get(1).await.unwrap(), 1);
    assert_eq!(trail(), "trait-method method audit trace");
}

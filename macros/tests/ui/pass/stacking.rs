//! Interceptors on trait, impl and method: paths, fields and constructors, in either attribute order.

use std::sync::Mutex;

use sinew::{Cx, Interceptor, Next, Outcome, interceptor, service};

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

pub struct Limit {
    name: String,
    per: &'static str,
}

fn limit(name: &str) -> Limit {
    mark("made");
    Limit { name: name.to_owned(), per: "-" }
}

impl Limit {
    fn per(self, per: &'static str) -> Self {
        Self { per, ..self }
    }
}

impl Interceptor for Limit {
    async fn call<N: Next>(&self, cx: &mut Cx, next: N) -> Outcome {
        mark(&format!("{}/{}", self.name, self.per));
        next.run(cx).await
    }
}

#[service]
#[interceptor(audit, role("trait"))]
pub trait Orders {
    #[interceptor(role("trait-method"))]
    async fn place(&self, id: u64) -> u64;
    async fn get(&self, id: u64) -> u64;
}

pub struct State {
    limits: (Limit, Limit),
}

pub struct Shop {
    state: State,
}

#[interceptor(self.state.limits.0)]
#[interceptor(trace)]
#[service]
#[interceptor(limit("impl", per = "1s"), self.state.limits.1)]
impl Orders for Shop {
    #[interceptor(role("method"), audit)]
    #[interceptor(limit("last"))]
    async fn place(&self, id: u64) -> u64 {
        mark("place");
        id
    }
    async fn get(&self, id: u64) -> u64 {
        mark("get");
        id
    }
}

#[interceptor(audit)]
#[service]
pub trait Above {
    async fn get(&self, id: u64) -> u64;
}

impl Above for Shop {
    async fn get(&self, id: u64) -> u64 {
        id
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let (first, second) = (limit("first"), limit("second"));
    assert_eq!(trail(), "made made");
    let orders = OrdersClient::local(Shop { state: State { limits: (first, second) } });
    assert_eq!(trail(), "made made");
    assert_eq!(orders.place(1).await.unwrap(), 1);
    assert_eq!(trail(), "audit trait first/- trace impl/1s second/- trait-method method audit last/- place");
    assert_eq!(orders.get(1).await.unwrap(), 1);
    assert_eq!(trail(), "audit trait first/- trace impl/1s second/- get");
    let above = AboveClient::local(Shop { state: State { limits: (limit("a"), limit("b")) } });
    trail();
    above.get(1).await.unwrap();
    assert_eq!(trail(), "audit");
}

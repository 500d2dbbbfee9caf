//! Interceptors: code around calls, stacked as attributes on an implementation and its methods, and on a whole server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sinew::{Code, Cx, Interceptor, Next, Outcome, Server, Status, interceptor, service};

/// A vault.
#[service]
pub trait Vault {
    /// What is in it.
    async fn look(&self) -> String;
    /// Takes it out.
    async fn empty(&self) -> String;
}

/// Who calls.
#[derive(Clone)]
struct User(String);

/// A function: it sees every call, unary or streaming, and may end it or tell those below something.
#[interceptor]
async fn authenticate(cx: &mut Cx, next: impl Next) -> Outcome {
    let user = cx.metadata().get("user").ok_or_else(|| Status::unauthenticated("who is calling?"))?;
    cx.insert(User(user.to_owned()));
    next.run(cx).await
}

/// A function with a setting, which its constructor takes.
#[interceptor]
async fn only(cx: &mut Cx, next: impl Next, name: &'static str) -> Outcome {
    match cx.get::<User>() {
        Some(User(user)) if user == name => next.run(cx).await,
        Some(_) | None => Err(Status::permission_denied(format!("only {name} may do this"))),
    }
}

/// A struct: it has state, and here lives in a handler and on the server.
#[derive(Clone, Default)]
struct Counter(Arc<AtomicUsize>);

impl Interceptor for Counter {
    async fn call<N: Next>(&self, cx: &mut Cx, next: N) -> Outcome {
        self.0.fetch_add(1, Ordering::Relaxed);
        next.run(cx).await
    }
}

struct Bank(Counter);

#[service]
#[interceptor(authenticate, self.0)] // around every method, outermost first
impl Vault for Bank {
    async fn look(&self) -> String {
        "gold".to_owned()
    }

    #[interceptor(only("owner"))] // inside those of the impl
    async fn empty(&self) -> String {
        "nothing".to_owned()
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (all, let_in) = (Counter::default(), Counter::default());
    let bank = VaultServer::new(Bank(let_in.clone()));
    let server = Server::builder().interceptor(all.clone()).service(bank).bind("127.0.0.1:0").start().await?;
    let vault = VaultClient::connect(&server.target()).await?;

    let code = |status: Status| status.code();
    assert_eq!(vault.look().await.map_err(code), Err(Code::Unauthenticated));
    let theft = vault.empty().metadata("user", "thief").await;
    assert_eq!(theft.map_err(code), Err(Code::PermissionDenied));
    assert_eq!(vault.empty().metadata("user", "owner").await?, "nothing");
    let count = |counter: Counter| counter.0.load(Ordering::Relaxed);
    assert_eq!((count(all), count(let_in)), (3, 2));
    Ok(())
}

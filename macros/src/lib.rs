//! The macros of `sinew`: a small compiler that parses, validates and expands.
//!
//! Use them through the crate `sinew`, which re-exports and documents them. Rules are in `validate`, reported
//! together; what is emitted is in `expand`, one file per item.

mod ast;
mod attr;
mod duration;
mod expand;
mod faults;
mod ids;
mod items;
mod links;
mod options;
mod paths;
mod syntax;
mod validate;

use proc_macro::TokenStream;

/// Makes a trait a service, or stacks interceptors on an implementation of one.
///
/// On a trait `Orders` it makes `OrdersClient` and `OrdersServer`. On an `impl Orders for ..` it is needed only where
/// interceptors are stacked there; its one option is then `crate = path`.
///
/// ```
/// use sinew::{Cx, Status, Streaming, service};
///
/// /// Orders of a shop.
/// #[service(name = "shop.Orders", dyn, mock)]
/// pub trait Orders {
///     #[rpc(idempotent, timeout = "300ms", alias = "fetch")]
///     async fn get(&self, cx: &Cx, id: u64, #[rpc(since = 2)] depth: Option<u32>) -> Result<String, Status>;
///     #[rpc(meta(role = "admin"), spawn)]
///     async fn import(&self, rows: Streaming<u64>) -> Result<u64, Status>;
/// }
/// # fn main() {}
/// ```
///
/// # What it makes
///
/// | item | what it is |
/// |---|---|
/// | the trait | as written; an implementation is plain Rust, and its futures are `Send` |
/// | `OrdersClient` | `connect(target)`, `lazy(target)`, `from_channel(channel)`, `local(handler)`; `channel()`; `NAME`, `METHODS` |
/// | a method of the client | the trait's without `cx`; returns a `Call<T, E>`, which takes options and runs when awaited. `E` is `Status`, or `CallError<E>` of your error |
/// | `OrdersServer` | `new(handler)`, for `Server::builder().service(..)` |
/// | `DynOrders`, `OrdersMock` | with the options `dyn` and `mock` |
///
/// # Methods
///
/// `async fn` with `&self`. `cx: &Cx` may stand anywhere and does not travel. Arguments are owned values, `&str`,
/// `&[u8]`, `Option` of those two, or a reference to a type of yours; at most one is a `Streaming<T>`. A method returns `T`,
/// `Result<T, Status>` or `Result<T, E>` with a `#[derive(AppError)]` on `E`; in the two `Result` forms `T` may be a
/// `Streaming<Item>`. Bytes are `&[u8]` or `bytes::Bytes`. A body is what an implementation does that was written before the method. `#[cfg]`, documentation, `#[deprecated]` and `#[must_use]`
/// reach the client.
///
/// # Options of the trait
///
/// | option | meaning | default | example |
/// |---|---|---|---|
/// | `name` | name of the service on the wire; method ids are made of it | the trait's name | `#[service(name = "shop.Orders")]` |
/// | `encoding` | how structs are written: `"named"` (maps; fields may move) or `"compact"` (arrays; about half the bytes, fields may only be appended). Both are read always | `"named"` | `#[service(encoding = "compact")]` |
/// | `transparent` | `OrdersClient` implements `Orders` too; every method must be able to fail as a call | off | `#[service(transparent)]` |
/// | `dyn` | `DynOrders`, for `Arc<dyn DynOrders>`, which implements `Orders`; one box per call | off | `#[service(dyn)]` |
/// | `mock` | `OrdersMock`, whose methods are closures set one by one. An unset one answers UNIMPLEMENTED through a client; called directly it panics, unless its error is `Status` | off | `#[service(mock)]` |
/// | `crate` | where the runtime is found, for a crate that re-exports or renames it | `::sinew` | `#[service(crate = crate::rpc)]` |
///
/// # Options of a method: `#[rpc(..)]`
///
/// | option | meaning | default | example |
/// |---|---|---|---|
/// | `name` | name on the wire; it stays when the function is renamed | the function's name | `#[rpc(name = "get")]` |
/// | `alias` | another name under which servers answer: a method's, or `service/method`; may be repeated | none | `#[rpc(alias = "fetch")]` |
/// | `timeout` | how long a call may take, in `ms`, `s`, `m`, `h`, `d`; a caller may set less, not more, and the server holds it to that. It bounds a stream as a whole | the channel's: 10 s for an answer, or for a stream to begin | `#[rpc(timeout = "1m 30s")]` |
/// | `idempotent` | running it twice has the effect of running it once; not for methods that take a stream. Over QUIC such calls may go with 0-RTT where both sides allow it, and then may run again; clients try such calls again when they fail (`RetryPolicy`) | off | `#[rpc(idempotent)]` |
/// | `since` | version of the service that added it, from 1; recorded in `MethodSpec::added_in` | not told | `#[rpc(since = 2)]` |
/// | `meta` | pairs of your own, which interceptors read by `MethodSpec::meta_value`; may be repeated | none | `#[rpc(meta(role = "admin"))]` |
/// | `spawn` | the handler always runs in a task of its own, beside its connection | polled by the connection, moved when it waits or proves slow | `#[rpc(spawn)]` |
/// | `blocking` | the handler runs on tokio's blocking pool, and may block its thread | as above | `#[rpc(blocking)]` |
/// | `skip` | a function of the trait that is no RPC | off | `#[rpc(skip)]` |
/// | `allow` | `allow(vec_u8)` accepts `Vec<u8>`, which travels as an array of integers | refused | `#[rpc(allow(vec_u8))]` |
///
/// # Options of an argument: `#[rpc(..)]` in front of it
///
/// | option | meaning | default | example |
/// |---|---|---|---|
/// | `default` | what the handler gets from a caller that does not send it: `Default::default()`, or the given value | a caller must send it, unless it is an `Option` | `#[rpc(default = 10)] limit: u32` |
/// | `reserved` | place of an argument that was removed: named `_name`, of type `()`, and gone from the client | off | `#[rpc(reserved)] _color: ()` |
/// | `since` | version that added it; the argument has to be an `Option` or have a `default`. Recorded in `ArgSpec::added_in` | not told | `#[rpc(since = 2)] depth: Option<u32>` |
/// | `allow` | `allow(vec_u8)`, for this argument | refused | `#[rpc(allow(vec_u8))] raw: Vec<u8>` |
///
/// How a contract may change while old and new versions talk to each other is in `docs/evolution.md` of the repository.
#[proc_macro_attribute]
pub fn service(args: TokenStream, item: TokenStream) -> TokenStream {
    items::service(args.into(), item.into()).into()
}

/// On an `async fn`: defines an interceptor. With a list, on a service or a method of one: stacks interceptors,
/// outermost first.
///
/// A list item is a path (`audit`), a field (`self.limiter`), or a constructor with chained setters
/// (`rate_limit(500, per = "1s")`), which runs once per server instance.
///
/// Stacked links nest in one future, without a box each. Some fifteen of them around one method fit the compiler's
/// default `recursion_limit`; a longer chain raises it in the crate that builds the server.
///
/// A defining function takes `cx: &mut Cx, next: impl Next` and returns `Outcome`. Further parameters are its
/// settings, given to a constructor of the same name. In the body those that are `Copy` by their spelling (numbers,
/// `bool`, `char`, `&'static T`, `Duration`) are what they are declared as, and any other is a shared reference.
///
/// # Examples
/// ```
/// use sinew::{Code, Cx, Next, Outcome, Status, interceptor, service};
///
/// /// Lets through who knows the token.
/// #[interceptor]
/// async fn token(cx: &mut Cx, next: impl Next, expected: &'static str) -> Outcome {
///     if cx.metadata().get("token") == Some(expected) {
///         next.run(cx).await
///     } else {
///         Err(Status::unauthenticated("this needs a token"))
///     }
/// }
///
/// #[service]
/// pub trait Vault {
///     async fn look(&self) -> String;
/// }
///
/// struct Cellar;
///
/// #[service]
/// impl Vault for Cellar {
///     #[interceptor(token("sesame"))]
///     async fn look(&self) -> String {
///         "gold".to_owned()
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Status> {
/// let vault = VaultClient::local(Cellar);
/// assert_eq!(vault.look().metadata("token", "sesame").await?, "gold");
/// assert!(vault.look().await.is_err_and(|status| status.code() == Code::Unauthenticated));
/// # Ok(())
/// # }
/// ```
#[proc_macro_attribute]
pub fn interceptor(args: TokenStream, item: TokenStream) -> TokenStream {
    items::interceptor(args.into(), item.into()).into()
}

/// Maps the variants of an application's error to codes of a `Status`.
///
/// On a variant: `#[rpc(code = NotFound)]` (default `Unknown`), `#[rpc(retry = never)]`, or `#[rpc(status)]` for one
/// that holds a `Status` and travels as it. On the type: `#[rpc(crate = path)]`. Needs `Display`, `Serialize` and
/// `Deserialize`.
///
/// # Examples
/// ```
/// use serde::{Deserialize, Serialize};
/// use sinew::{AppError, CallError, service};
///
/// #[derive(Debug, PartialEq, thiserror::Error, Serialize, Deserialize, AppError)]
/// pub enum OrderError {
///     #[error("there is no {0}")]
///     #[rpc(code = NotFound)]
///     NotFound(String),
///     #[error("only {left} left")]
///     #[rpc(code = FailedPrecondition, retry = never)]
///     OutOfStock { left: u32 },
/// }
///
/// #[service]
/// pub trait Shop {
///     async fn order(&self, sku: &str) -> Result<u64, OrderError>;
/// }
///
/// struct TeaShop;
///
/// impl Shop for TeaShop {
///     async fn order(&self, sku: &str) -> Result<u64, OrderError> {
///         Err(OrderError::NotFound(sku.to_owned()))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// match ShopClient::local(TeaShop).order("coffee").await {
///     Err(CallError::App(OrderError::NotFound(sku))) => assert_eq!(sku, "coffee"),
///     other => panic!("{other:?}"),
/// }
/// # }
/// ```
#[proc_macro_derive(AppError, attributes(rpc))]
pub fn app_error(input: TokenStream) -> TokenStream {
    items::app_error(input.into()).into()
}

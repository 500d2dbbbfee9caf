//! Lints that a user may deny stay silent about generated code.

#![deny(
    warnings,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    unused,
    unused_qualifications,
    unused_lifetimes,
    elided_lifetimes_in_paths,
    explicit_outlives_requirements,
    single_use_lifetimes,
    trivial_casts,
    unnameable_types,
    rust_2018_idioms
)]
#![forbid(unsafe_code)]

use sinew::{AppError, Cx, Next, Outcome, Status, Streaming, interceptor, service};

/// An error.
#[derive(Debug, thiserror::Error, serde::Serialize, serde::Deserialize, AppError)]
pub enum OrderError {
    /// None there.
    #[error("no such order")]
    #[rpc(code = NotFound, retry = never)]
    NotFound,
    /// The call.
    #[error("{0}")]
    #[rpc(status)]
    #[serde(skip)]
    Rpc(#[from] Status),
}

/// An interceptor.
#[interceptor]
pub async fn audit(cx: &mut Cx, next: impl Next) -> Outcome {
    next.run(cx).await
}

/// An interceptor with a setting.
#[interceptor]
pub async fn role(cx: &mut Cx, next: impl Next, name: &'static str) -> Outcome {
    let _ = name;
    next.run(cx).await
}

/// A service.
#[service(transparent, dyn, mock)]
#[interceptor(audit, role("a"))]
pub trait Orders {
    /// Gets.
    #[rpc(idempotent, timeout = "1s", alias = "fetch", meta(a = "b"))]
    #[interceptor(role("b"))]
    async fn get(&self, cx: &Cx, id: u64, name: &str, #[rpc(reserved)] _old: ()) -> Result<u64, OrderError>;
    /// Watches.
    async fn watch(&self, rows: Streaming<u64>) -> Result<Streaming<u64>, Status>;
    /// Old.
    #[deprecated]
    async fn old(&self) -> Result<(), Status>;
}

/// A handler.
#[derive(Debug)]
pub struct Shop {
    audit: audit,
}

#[service]
#[interceptor(self.audit, role("c"))]
impl Orders for Shop {
    #[interceptor(audit)]
    async fn get(&self, _: &Cx, id: u64, _: &str, (): ()) -> Result<u64, OrderError> {
        Ok(id)
    }
    async fn watch(&self, rows: Streaming<u64>) -> Result<Streaming<u64>, Status> {
        Ok(rows)
    }
    async fn old(&self) -> Result<(), Status> {
        Ok(())
    }
}

mod private {
    #[sinew::service(dyn, mock)]
    trait Unused {
        async fn get(&self) -> u64;
    }

    #[sinew::service]
    pub(super) trait Half {
        async fn get(&self) -> u64;
    }

    pub(crate) fn touch(half: &HalfClient) {
        let _ = half;
    }
}

fn main() {
    let _ = (OrdersClient::local(Shop { audit }), private::touch);
}

//! The slots that calls run in: of a service, of a service behind the server's interceptors, of the fallback.

use std::sync::{Arc, Mutex, PoisonError};

use super::Shared;
use super::router::Route;
use crate::context::Cx;
use crate::interceptor::{Chain, Next};
use crate::message::Outcome;
use crate::method::{MethodKind, MethodSpec};
use crate::service::{BoxSlot, Inbound, ServerRequest, Service, slot};
use crate::status::Status;
use crate::wire::message::Payload;

/// A slot with the call begun in it.
pub(super) fn slot_for(
    shared: &Arc<Shared>,
    spare: Option<(usize, BoxSlot)>,
    route: Option<&Route>,
    cx: &Cx,
    request: ServerRequest,
) -> BoxSlot {
    let Some(route) = route else {
        return fallback_slot(shared, cx, request);
    };
    let mut found = match (spare, shared.router.service(route.service)) {
        (Some((service, spare)), _) if service == route.service => spare,
        (_, Some(service)) if shared.chain.is_empty() || route.is_built_in => service.slot(),
        (_, Some(service)) => chained_slot(shared.chain.clone(), Arc::clone(service)),
        (_, None) => slot(|_, _, _| async { Err(Status::internal("the service is gone")) }),
    };
    found.as_mut().start(route.spec, cx.clone(), request);
    found
}

fn fallback_slot(shared: &Arc<Shared>, cx: &Cx, request: ServerRequest) -> BoxSlot {
    let Some(fallback) = shared.router.fallback.clone() else {
        return slot(|_, _, _| async { Err(Status::unimplemented("no such method")) });
    };
    let chain = shared.chain.clone();
    let mut made = slot(move |_, mut cx: Cx, request| {
        let fallback = Arc::clone(&fallback);
        let chain = chain.clone();
        async move { chain.run(&mut cx, Last { fallback, request }).await }
    });
    static UNKNOWN: MethodSpec = MethodSpec::new("unknown/unknown", 0, MethodKind::Bidirectional);
    made.as_mut().start(&UNKNOWN, cx.clone(), request);
    made
}

/// A slot whose call has come to `outcome`.
pub(super) fn ready_slot(cx: Cx, outcome: Outcome) -> BoxSlot {
    let outcome = Mutex::new(Some(outcome));
    let mut made = slot(move |_, _, _| {
        let outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move { outcome.unwrap_or_else(|| Err(Status::internal("an answer is given once"))) }
    });
    static READY: MethodSpec = MethodSpec::new("ready/ready", 0, MethodKind::Unary);
    let request = ServerRequest::new(Payload::empty(), Inbound::default());
    made.as_mut().start(&READY, cx, request);
    made
}

/// The end of a server's chain for calls that no service has.
struct Last {
    fallback: Arc<dyn super::router::Fallback>,
    request: ServerRequest,
}

impl Next for Last {
    async fn run(self, cx: &mut Cx) -> Outcome {
        self.fallback.call(cx.clone(), self.request).await
    }
}

/// A slot of a service behind the server's own interceptors.
fn chained_slot(chain: Chain, service: Arc<dyn Service>) -> BoxSlot {
    slot(move |spec, mut cx: Cx, request| {
        let chain = chain.clone();
        let inner = service.slot();
        async move { chain.run(&mut cx, Chained { inner, spec, request }).await }
    })
}

struct Chained {
    inner: BoxSlot,
    spec: &'static MethodSpec,
    request: ServerRequest,
}

impl Next for Chained {
    async fn run(mut self, cx: &mut Cx) -> Outcome {
        self.inner.as_mut().start(self.spec, cx.clone(), self.request);
        std::future::poll_fn(|task| self.inner.as_mut().poll(task)).await
    }
}

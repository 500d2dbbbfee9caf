//! Answers `sinew.Health`: what every server says of itself and its services.
//!
//! It stands outside the server's interceptors: a client asks before it has a call to make, and has no credentials to show then. What it tells is no secret.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use tokio::sync::watch;

use crate::code::Code;
use crate::context::Cx;
use crate::health::{CHECK, Health, HealthChanges, HealthStatus, WATCH};
use crate::message::{Outcome, Streaming, respond};
use crate::method::MethodSpec;
use crate::service::{BoxSlot, ServerRequest, Service, slot};
use crate::status::Status;
use crate::wire::args::ArgsReader;

/// The longest name that can be asked for, in bytes: as long as a name in DNS, which services are often called by.
const NAME_BYTES_MAX: usize = 255;

/// The health of one server.
#[derive(Clone)]
pub(super) struct ServerHealth {
    pub(super) said: Health,
    services: Arc<BTreeSet<String>>,
    /// There is somebody for calls of services that the server does not know.
    has_fallback: bool,
    draining: Arc<watch::Sender<bool>>,
}

impl ServerHealth {
    pub(super) fn new(said: Health, services: BTreeSet<String>, has_fallback: bool) -> Self {
        for service in said.services().into_iter().filter(|name| !services.contains(name)) {
            tracing::warn!(service, "health was set for a service that this server does not have");
        }
        Self {
            said,
            has_fallback,
            services: Arc::new(services),
            draining: Arc::new(watch::Sender::new(false)),
        }
    }

    /// Tells all who watch to make their calls elsewhere.
    pub(super) fn set_draining(&self) {
        self.draining.send_replace(true);
    }

    /// Whether clients were told to make their calls elsewhere.
    pub(super) fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// The names of the services that it tells of.
    pub(super) fn services(&self) -> impl Iterator<Item = &String> {
        self.services.iter()
    }

    pub(super) fn of(&self, service: &str) -> HealthStatus {
        if !service.is_empty() && !self.has_fallback && !self.services.contains(service) {
            return HealthStatus::ServiceUnknown;
        }
        match self.said.of(service) {
            HealthStatus::Serving if *self.draining.borrow() => HealthStatus::Draining,
            said => said,
        }
    }

    fn watch(&self, service: String, cx: Cx) -> Streaming<u8> {
        let watched = Watched {
            changes: self.said.changes(),
            draining: self.draining.subscribe(),
            health: self.clone(),
            service,
            told: None,
            cx,
        };
        Streaming::from(Statuses(Box::pin(next(watched))))
    }
}

impl Service for ServerHealth {
    fn methods(&self) -> &'static [MethodSpec] {
        static METHODS: [MethodSpec; 2] = [CHECK, WATCH];
        &METHODS
    }

    fn slot(&self) -> BoxSlot {
        let health = self.clone();
        slot(move |spec, cx, request| {
            let answer = health.answer(spec, cx, &request);
            std::future::ready(answer)
        })
    }
}

impl ServerHealth {
    fn answer(&self, spec: &'static MethodSpec, cx: Cx, request: &ServerRequest) -> Outcome {
        let mut arguments = ArgsReader::new(request.arguments(), spec)?;
        let service = arguments.next_str()?.to_owned();
        arguments.finish()?;
        if service.len() > NAME_BYTES_MAX {
            let message = format!("the name of a service has at most {NAME_BYTES_MAX} bytes");
            return Err(Status::new(Code::InvalidArgument, message));
        }
        match spec.id() == CHECK.id() {
            true => respond(Ok::<_, Status>(self.of(&service).number()), spec),
            false => respond(Ok::<_, Status>(self.watch(service, cx)), spec),
        }
    }
}

/// One client's watch.
struct Watched {
    health: ServerHealth,
    changes: HealthChanges,
    draining: watch::Receiver<bool>,
    service: String,
    told: Option<HealthStatus>,
    cx: Cx,
}

impl Watched {
    /// How it is, at once and then whenever that changes; `None` when clients are told to leave.
    async fn next(&mut self) -> Option<HealthStatus> {
        loop {
            let now = self.health.of(&self.service);
            if self.told.replace(now) != Some(now) {
                return Some(now);
            }
            // All of them are cancel safe: each only tells that there is something to look at.
            tokio::select! {
                biased;
                () = self.cx.draining() => return None,
                going_on = self.changes.next() => if !going_on { return None },
                changed = self.draining.changed() => if changed.is_err() { return None },
            }
        }
    }
}

/// One status after the other.
struct Statuses(Next);

type Next = Pin<Box<dyn Future<Output = Option<(HealthStatus, Watched)>> + Send>>;

async fn next(mut watched: Watched) -> Option<(HealthStatus, Watched)> {
    let status = watched.next().await?;
    Some((status, watched))
}

impl Stream for Statuses {
    type Item = Result<u8, Status>;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // A stream is not polled after its end.
        let Some((status, watched)) = std::task::ready!(self.0.as_mut().poll(task)) else {
            return Poll::Ready(None);
        };
        self.0 = Box::pin(next(watched));
        Poll::Ready(Some(Ok(status.number())))
    }
}

impl fmt::Debug for ServerHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerHealth").field("said", &self.said).finish_non_exhaustive()
    }
}

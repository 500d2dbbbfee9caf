//! The handle that generated clients hold.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::builder::ChannelBuilder;
use super::ejection::MayAsk;
use super::governance::{Governance, Policies};
use super::member::{Completion, Picked};
use super::pool::Pool;
use super::raw::{RawRequest, name_in};
use super::snapshot::ChannelSnapshot;
use super::state::{ConnectivityState, StateChanges};
use super::subchannel::Subchannel;
use crate::config::ServiceConfig;
use crate::context::Cx;
use crate::faults::ChannelFaults;
use crate::interceptor::{Chain, Interceptor};
use crate::message::Outcome;
use crate::metadata::Metadata;
use crate::policy::retry::RetryPolicy;
use crate::status::Status;
use crate::transport::Connection;

/// A way to a service: connected when first needed, reconnected by itself, cheap to clone.
///
/// Dropping the last clone, and the last call and stream made through it, closes the connection.
///
/// # Examples
/// ```no_run
/// # mod sinew { pub use sinew_core::{client::Channel, status::Status}; }
/// use sinew::{Channel, Status};
///
/// /// To be shared by all clients of the process: `OrdersClient::from_channel(channel.clone())`.
/// async fn to_the_shop() -> Result<Channel, Status> {
///     Channel::builder().timeout("2s").keepalive("10s", "5s").connect("127.0.0.1:4000").await
/// }
/// ```
#[derive(Clone)]
pub struct Channel {
    inner: Arc<Inner>,
}

struct Inner {
    target: Arc<Target>,
    chain: Chain,
    timeout: Option<Duration>,
    wait_for_ready: bool,
    governance: Arc<Governance>,
}

/// How calls are made, if nothing else is said of them.
pub(super) struct CallSettings {
    pub(super) chain: Chain,
    pub(super) timeout: Option<Duration>,
    pub(super) wait_for_ready: bool,
    pub(super) policies: Policies,
    pub(super) faults: Option<Arc<ChannelFaults>>,
}

/// Where calls go.
pub(super) enum Target {
    /// To one address.
    One(Subchannel),
    /// To the endpoints of a service.
    Pool(Pool),
    /// To a handler in this process.
    Local(Box<dyn LocalCalls>),
}

/// Answers calls without a connection; `XClient::local` is made of it.
pub trait LocalCalls: Send + Sync + 'static {
    /// Answers one call; `cx` is the client's context of it.
    fn call(&self, cx: &Cx, request: RawRequest) -> Pin<Box<dyn Future<Output = Outcome> + Send>>;
}

impl Channel {
    /// A builder, for everything that is not the default.
    #[must_use]
    pub fn builder() -> ChannelBuilder {
        ChannelBuilder::default()
    }

    /// Connects to `target` and waits until a connection is ready: one address (`host:port`, `tls://host:port`, `quic://host:port`, `unix:path`, `mem:name`),
    /// several (`static:///host:port,host:port`, `file:///path`), or a service that is found by its name (`mem:///shop.Orders`, with the feature `dns`
    /// `dns:///host:port`, and with the feature `etcd`
    /// `etcd://host:port,host:port/prefix/shop.Orders`).
    ///
    /// # Errors
    /// INVALID_ARGUMENT if the target is malformed; UNAVAILABLE with the cause if it cannot be reached in time.
    pub async fn connect(target: &str) -> Result<Self, Status> {
        Self::builder().connect(target).await
    }

    /// A channel to `target` that connects when it is first used; does no I/O.
    ///
    /// # Errors
    /// INVALID_ARGUMENT if the target is malformed.
    pub fn lazy(target: &str) -> Result<Self, Status> {
        Self::builder().lazy(target)
    }

    /// A channel whose calls are answered by `calls`.
    #[must_use]
    pub fn from_local(calls: impl LocalCalls) -> Self {
        Self {
            inner: Arc::new(Inner {
                target: Arc::new(Target::Local(Box::new(calls))),
                chain: Chain::default(),
                timeout: Some(crate::call::DEADLINE_DEFAULT),
                wait_for_ready: false,
                governance: Arc::new(Governance::new(
                    Policies {
                        retry: RetryPolicy::NEVER,
                        ..Policies::DEFAULT
                    },
                    None,
                )),
            }),
        }
    }

    pub(super) fn remote(target: Target, calls: CallSettings) -> Self {
        Self {
            inner: Arc::new(Inner {
                target: Arc::new(target),
                chain: calls.chain,
                timeout: calls.timeout,
                wait_for_ready: calls.wait_for_ready,
                governance: Arc::new(Governance::new(calls.policies, calls.faults)),
            }),
        }
    }

    /// The same channel with `interceptor` innermost of its interceptors.
    #[must_use]
    pub fn with_interceptor(&self, interceptor: impl Interceptor + 'static) -> Self {
        Self {
            inner: Arc::new(Inner {
                target: Arc::clone(&self.inner.target),
                chain: self.inner.chain.with(interceptor),
                timeout: self.inner.timeout,
                wait_for_ready: self.inner.wait_for_ready,
                governance: Arc::clone(&self.inner.governance),
            }),
        }
    }

    /// Where the channel stands; a local one is always READY.
    #[must_use]
    pub fn state(&self) -> ConnectivityState {
        match &*self.inner.target {
            Target::One(subchannel) => subchannel.state_now(),
            Target::Pool(pool) => *pool.state().borrow(),
            Target::Local(_) => ConnectivityState::Ready,
        }
    }

    /// Follows where the channel stands, beginning with the current state.
    #[must_use]
    pub fn states(&self) -> StateChanges {
        match &*self.inner.target {
            Target::One(subchannel) => StateChanges::new(subchannel.state()),
            Target::Pool(pool) => StateChanges::new(pool.state()),
            Target::Local(_) => StateChanges::new(tokio::sync::watch::channel(ConnectivityState::Ready).1),
        }
    }

    /// Connects, if it is not connected, and waits for READY, for up to the connect time-out (1 s by default). Cancel safe.
    ///
    /// # Errors
    /// UNAVAILABLE with the cause.
    pub async fn wait_ready(&self) -> Result<(), Status> {
        match &*self.inner.target {
            Target::One(subchannel) => subchannel.connect().await,
            Target::Pool(pool) => pool.connect().await,
            Target::Local(_) => Ok(()),
        }
    }

    /// What is known of the channel and its endpoints now.
    ///
    /// # Examples
    /// ```
    /// # mod sinew { pub use sinew_core::client::Channel; }
    /// # fn main() -> Result<(), sinew_core::status::Status> {
    /// let channel = sinew::Channel::lazy("static:///127.0.0.1:7000,127.0.0.1:7001")?;
    /// for endpoint in channel.snapshot().endpoints {
    ///     println!("{} is {:?}, {} calls under way", endpoint.endpoint.name(), endpoint.state, endpoint.in_flight);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn snapshot(&self) -> ChannelSnapshot {
        let (retries, retries_withheld) = self.inner.governance.retry_counts();
        let faults = self.inner.governance.faults().map_or(0, ChannelFaults::met);
        let (hedges, hedges_withheld) = self.inner.governance.hedge_counts();
        let mut methods = self.inner.governance.methods();
        for method in &mut methods {
            let is_hedged = self.hedging(name_in(&method.path)).is_some();
            method.hedge_delay = method.hedge_delay.filter(|_| is_hedged);
        }
        if let Target::Pool(pool) = &*self.inner.target {
            return ChannelSnapshot {
                retries,
                retries_withheld,
                hedges,
                hedges_withheld,
                faults,
                methods,
                ..pool.snapshot()
            };
        }
        ChannelSnapshot {
            retries,
            retries_withheld,
            hedges,
            hedges_withheld,
            faults,
            methods,
            target: self.target().to_owned(),
            state: self.state(),
            failure: self.last_failure().map(|failure| failure.message().to_owned()),
            list: None,
            endpoints: Vec::new(),
            zone_share: None,
            place: None,
            refused: Vec::new(),
            unused: Vec::new(),
            config: ServiceConfig::new(),
            config_failures: Vec::new(),
        }
    }

    fn target(&self) -> &str {
        match &*self.inner.target {
            Target::One(subchannel) => subchannel.target(),
            Target::Pool(pool) => pool.target(),
            Target::Local(_) => "local",
        }
    }

    /// Has endpoints that could not be reached connect again within a second, in place of waiting for their backoff, which begins anew: for an application that
    /// learns that the network is back. The entry of an endpoint that changes in its registry does the same for it.
    pub fn reset_backoff(&self) {
        match &*self.inner.target {
            Target::One(subchannel) => subchannel.reset_backoff(),
            Target::Pool(pool) => pool.reset_backoff(),
            Target::Local(_) => {}
        }
    }

    /// Closes the channel and all its clones for good; running calls end with UNAVAILABLE.
    pub fn shut_down(&self) {
        match &*self.inner.target {
            Target::One(subchannel) => subchannel.shut_down(),
            Target::Pool(pool) => pool.shut_down(),
            Target::Local(_) => {}
        }
    }

    pub(super) fn chain(&self) -> &Chain {
        &self.inner.chain
    }

    pub(super) fn default_timeout(&self) -> Option<Duration> {
        self.inner.timeout
    }

    /// The service's configuration for calls, if there is one.
    pub(super) fn config(&self) -> Option<arc_swap::Guard<Option<Arc<ServiceConfig>>>> {
        match &*self.inner.target {
            Target::Pool(pool) => Some(pool.config_for_calls()),
            Target::One(_) | Target::Local(_) => None,
        }
    }

    pub(super) fn governance(&self) -> &Governance {
        &self.inner.governance
    }

    pub(super) fn waits_for_ready(&self) -> bool {
        self.inner.wait_for_ready
    }

    pub(super) fn local_calls(&self) -> Option<&dyn LocalCalls> {
        match &*self.inner.target {
            Target::Local(calls) => Some(&**calls),
            Target::One(_) | Target::Pool(_) => None,
        }
    }

    /// The connection for an attempt, if one is there.
    #[inline]
    pub(super) fn pick(&self, wanted: &Wanted<'_>) -> Option<Picked> {
        match &*self.inner.target {
            Target::One(subchannel) => subchannel.current().as_deref().map(|one| Picked::only(one.clone())),
            Target::Pool(pool) => pool.pick(wanted),
            Target::Local(_) => None,
        }
    }

    /// The connection for an attempt; waits for one to be made.
    ///
    /// # Errors
    /// UNAVAILABLE with the cause if there is none and the request does not wait for READY, or the channel is closed.
    ///
    /// # Cancel safety
    /// Cancel safe; connecting goes on for others.
    pub(super) async fn acquire(&self, request: &Wanted<'_>) -> Result<Picked, Status> {
        match &*self.inner.target {
            Target::One(subchannel) => {
                let connection = subchannel.acquire(request.wait_for_ready).await?;
                Ok(Picked::only(Connection::clone(&connection)))
            }
            Target::Pool(pool) => match pool.pick(request) {
                Some(picked) => Ok(picked),
                // Waiting is rare, and its state would make every call's larger.
                None => Box::pin(pool.acquire(request)).await,
            },
            Target::Local(_) => Err(Status::internal("a local channel has no connection")),
        }
    }

    /// Takes a connection that accepts no calls out of use.
    pub(super) fn retire(&self, connection: &Connection, completion: Option<&Completion>) {
        match (&*self.inner.target, completion) {
            (_, Some(completion)) => completion.member().retire(connection),
            (Target::One(subchannel), None) => subchannel.retire(connection),
            (Target::Pool(_) | Target::Local(_), None) => {}
        }
    }

    /// Why there is no connection, if the last attempt to make one failed.
    pub(super) fn last_failure(&self) -> Option<Status> {
        match &*self.inner.target {
            Target::One(subchannel) => subchannel.last_failure(),
            Target::Pool(pool) => pool.last_failure(),
            Target::Local(_) => None,
        }
    }

    #[cfg(test)]
    pub(super) fn current(&self) -> Option<Arc<Connection>> {
        match &*self.inner.target {
            Target::One(subchannel) => subchannel.current().clone(),
            Target::Pool(_) | Target::Local(_) => None,
        }
    }
}

/// What an attempt needs a connection for.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) method: u64,
    pub(super) metadata: &'a Metadata,
    pub(super) route_key: Option<u64>,
    /// Whether it may go to an endpoint that is ejected, to find out whether that works again; asked only where one is.
    pub(super) may_ask: &'a (dyn Fn() -> MayAsk + Sync),
    /// Members that were tried already.
    pub(super) tried: &'a [u64],
    pub(super) wait_for_ready: bool,
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("target", &self.target())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

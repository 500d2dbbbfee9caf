//! More connections to one endpoint, while it has many calls of this channel.
//!
//! One connection is written and read by one task at each end, and its server takes so many calls on it. When the last of an endpoint's connections gets as many
//! calls as are good for it, another one is made, and takes those that come from then on; it closes by itself when it has had nothing to do for a while. Whether
//! the endpoint can be called at all is for its first connection to say.
//!
//! Source: gRFC A105.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;

use super::health::HealthCheck;
use super::subchannel::{Subchannel, SubchannelConfig};
use crate::mux::MuxConfig;
use crate::status::Status;
use crate::transport::Connection;

/// The most connections to one endpoint that can be asked for.
pub(super) const CONNECTIONS_MAX: usize = 16;
/// Calls under way on a connection that has enough of them: they share wakeups and writes already, and another connection can use another processor.
const CROWDED: u32 = 100;
/// How often a call that stands in line looks for another connection.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The time after which a connection that is not needed closes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Makes the subchannel of one more connection.
pub(super) type Make = dyn Fn() -> Result<SubchannelConfig, Status> + Send + Sync;

/// The connections to one endpoint.
pub(super) struct ExtraConnections {
    /// How many there may be besides the first.
    more_max: usize,
    make: Box<Make>,
    /// Where the first connection runs: the runtime of a call may be gone sooner.
    runtime: Handle,
    /// Calls on the first one.
    on_first: AtomicU32,
    more: ArcSwap<Vec<Arc<ExtraConnection>>>,
    /// Held while one is added.
    growing: Mutex<()>,
}

/// One of the further connections.
pub(super) struct ExtraConnection {
    subchannel: Subchannel,
    in_flight: AtomicU32,
}

impl ExtraConnection {
    /// Its server has greeted.
    fn is_ready(&self) -> bool {
        self.subchannel.current().as_deref().is_some_and(|connection| connection.calls_max() > 0)
    }
}

/// A connection, and whom to tell when the call is over.
pub(super) struct Chosen {
    pub(super) connection: Connection,
    /// `None` for the first.
    pub(super) extra: Option<Arc<ExtraConnection>>,
}

impl ExtraConnections {
    /// For at most `max` connections, which run where this is called.
    pub(super) fn new(max: usize, make: Box<Make>) -> Self {
        Self {
            runtime: Handle::current(),
            more_max: max.saturating_sub(1),
            make,
            on_first: AtomicU32::new(0),
            more: ArcSwap::default(),
            growing: Mutex::default(),
        }
    }

    /// The connection for a call, if the first one is there, and another one than `but` if any has room; the call counts on it until [`leave`](Self::leave).
    pub(super) fn choose(&self, first: &Subchannel, but: Option<&Connection>) -> Option<Chosen> {
        let first = Connection::clone(first.current().as_deref()?);
        let more = self.more.load();
        let of_first = (self.on_first.load(Ordering::Relaxed), first, None);
        // Before its HELLO one may come to nothing yet.
        let others = more.iter().filter(|extra| extra.is_ready()).filter_map(|extra| {
            let connection = extra.subchannel.current().as_deref().cloned()?;
            Some((
                extra.in_flight.load(Ordering::Relaxed),
                connection,
                Some(Arc::clone(extra)),
            ))
        });
        let mut least = of_first;
        let is_left = |connection: &Connection| but.is_some_and(|but| but.is_same(connection));
        if least.0 >= full(&least.1) || is_left(&least.1) {
            for other in others {
                let has_room = other.0 < full(&other.1) && !is_left(&other.1);
                if has_room || other.0 < least.0 {
                    least = other;
                }
                if has_room {
                    break;
                }
            }
        }
        let (in_flight, connection, extra) = least;
        if in_flight + 1 >= full(&connection) {
            // By this call; the next one is to find another.
            self.grow(&more);
        }
        self.count(extra.as_deref()).fetch_add(1, Ordering::Relaxed);
        Some(Chosen { connection, extra })
    }

    /// Waits until another connection than `but` has room.
    ///
    /// # Cancel safety
    /// Cancel safe: it only looks.
    pub(super) async fn room(&self, first: &Subchannel, but: &Connection) {
        // The call may be polled outside a runtime.
        let mut looks = {
            let _runtime = self.runtime.enter();
            tokio::time::interval(LOOK_EVERY)
        };
        looks.tick().await;
        loop {
            looks.tick().await;
            let has_room = |subchannel: &Subchannel, in_flight: &AtomicU32| {
                let connection = subchannel.current();
                let fits = |connection: &Connection| in_flight.load(Ordering::Relaxed) < full(connection);
                connection.as_deref().is_some_and(|one| one.calls_max() > 0 && !one.is_same(but) && fits(one))
            };
            let of_more = self.more.load().iter().any(|extra| has_room(&extra.subchannel, &extra.in_flight));
            if of_more || has_room(first, &self.on_first) {
                return;
            }
        }
    }

    /// A call is over that was counted.
    pub(super) fn leave(&self, extra: Option<&ExtraConnection>) {
        self.count(extra).fetch_sub(1, Ordering::Relaxed);
    }

    fn count<'a>(&'a self, extra: Option<&'a ExtraConnection>) -> &'a AtomicU32 {
        extra.map_or(&self.on_first, |extra| &extra.in_flight)
    }

    /// Sees to it that one more connection is made, if there may be one and none is under way.
    fn grow(&self, more: &[Arc<ExtraConnection>]) {
        // Whoever is doing it does it for all.
        let Ok(_growing) = self.growing.try_lock() else { return };
        let _runtime = self.runtime.enter();
        if let Some(resting) = more.iter().find(|extra| !extra.is_ready()) {
            // It may be connecting already. A channel that is closed, or whose runtime is gone, needs none.
            let _started = resting.subchannel.start();
            return;
        }
        let now = self.more.load();
        if now.len() != more.len() || now.len() >= self.more_max {
            return;
        }
        let Ok(config) = (self.make)() else { return };
        let extra = Arc::new(ExtraConnection {
            subchannel: Subchannel::new(SubchannelConfig {
                // The first one asks, and what it hears holds for all.
                health: HealthCheck::off(),
                on_change: None,
                is_extra: true,
                mux: MuxConfig {
                    idle_timeout: Some(IDLE_TIMEOUT),
                    ..config.mux
                },
                ..config
            }),
            in_flight: AtomicU32::new(0),
        });
        let _started = extra.subchannel.start();
        let mut all = Vec::clone(&now);
        all.push(extra);
        self.more.store(Arc::new(all));
    }

    /// Takes a connection that accepts no calls out of use.
    pub(super) fn retire(&self, connection: &Connection) {
        self.more.load().iter().for_each(|extra| extra.subchannel.retire(connection));
    }

    /// Further connections that are there.
    pub(super) fn connected(&self) -> usize {
        self.more.load().iter().filter(|extra| extra.subchannel.current().is_some()).count()
    }

    /// Closes them for good.
    pub(super) fn shut_down(&self) {
        self.more.load().iter().for_each(|extra| extra.subchannel.shut_down());
    }
}

/// How many calls are enough for a connection. One place is for the question how the endpoint is.
fn full(connection: &Connection) -> u32 {
    match connection.calls_max() {
        // It has not said so yet.
        0 => CROWDED,
        max => CROWDED.min(max.saturating_sub(1).max(1)),
    }
}

//! Takes connections, and keeps taking them when the system is short of descriptors.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::Shared;
use super::connection::{Accepted, ServerConnection};
use super::shutdown::{Connections, NotTaken, Tasks};
use super::streams;
use crate::mux::{ConnectionEnd, Role};
use crate::time;
use crate::transport::connection::Lifecycle;
use crate::transport::driver;
use crate::transport::error::WithCauses;
use crate::transport::io::ByteStream;
use crate::transport::listen::{Accepted as Fresh, BACKLOG, Handshake, Listener};

/// The pause after an accept error, growing by doubling: EMFILE does not go away by asking again at once.
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// The longest pause: when descriptors are free again, the server is back within this time.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Between two lines of the log about connections that were turned away.
const LOG_PAUSE: Duration = Duration::from_secs(1);

/// Accepts until the server closes.
pub(super) async fn run(
    mut listener: Listener,
    shared: Arc<Shared>,
    connections: Arc<Connections>,
    mut closing: watch::Receiver<bool>,
) {
    let mut pause = Duration::ZERO;
    loop {
        let accepted = tokio::select! {
            // Both are cancel safe: a connection that was not accepted stays in the backlog.
            _ = closing.wait_for(|closing| *closing) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(accepted) => {
                pause = Duration::ZERO;
                take(&shared, &connections, accepted);
            }
            // The peer was gone before it was accepted; the listener is well.
            Err(error) if is_about_the_peer(&error) => {}
            Err(error) => {
                pause = (pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
                if pause == PAUSE_MIN || pause == PAUSE_MAX {
                    tracing::warn!(address = %listener.bound(), %error, ?pause, "cannot accept; trying again");
                }
                // Either way the loop goes on, and sees whether the server closes.
                let _rested = tokio::time::timeout(pause, closing.wait_for(|closing| *closing)).await;
            }
        }
    }
    take_the_rest(&mut listener, &shared, &connections).await;
    if let Some(closing) = listener.close() {
        shared.tasks.spawn(closing);
    }
}

/// Accepts those that the system has connected already. Left alone, they would be reset when the listener closes, after they may have sent calls that
/// nobody can tell were not processed; so they are taken in, and sent away with all others.
async fn take_the_rest(listener: &mut Listener, shared: &Arc<Shared>, connections: &Arc<Connections>) {
    // A second look after the runtime has asked the system once more.
    for _ in 0..2 {
        for _ in 0..BACKLOG {
            let polled = std::future::poll_fn(|task| Poll::Ready(pin!(listener.accept()).poll(task))).await;
            match polled {
                Poll::Ready(Ok(accepted)) => take(shared, connections, accepted),
                Poll::Ready(Err(_)) | Poll::Pending => break,
            }
        }
        tokio::task::yield_now().await;
    }
}

fn is_about_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// Lets one line through per second, so that whoever provokes it cannot fill the log.
#[derive(Debug, Default)]
pub(super) struct LogGate(Mutex<Gate>);

#[derive(Debug, Default)]
struct Gate {
    opened: Option<Instant>,
    /// How often it was asked since, in vain.
    kept_back: u64,
    asked: u64,
}

impl LogGate {
    /// Whether to write a line now, and how many were kept back before it.
    fn ask(&self, now: Instant) -> Option<u64> {
        let mut gate = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        gate.asked += 1;
        if gate.opened.is_some_and(|opened| now.saturating_duration_since(opened) < LOG_PAUSE) {
            gate.kept_back += 1;
            return None;
        }
        gate.opened = Some(now);
        Some(std::mem::take(&mut gate.kept_back))
    }

    /// How often it was asked at all.
    pub(super) fn asked(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).asked
    }
}

/// Takes a connection in, at once or after its handshake.
fn take(shared: &Arc<Shared>, connections: &Arc<Connections>, fresh: Fresh) {
    match fresh {
        Fresh::Stream(stream) => serve(shared, connections, stream),
        Fresh::Handshake { peer, handshake } => {
            // Before the work, and again after it: others may have come meanwhile.
            if connections.len() >= shared.connections_max {
                turned_away(shared, &peer);
            } else {
                shake_hands(shared, connections, peer, handshake);
            }
        }
    }
}

/// Says that the server is full.
fn turned_away(shared: &Shared, peer: &dyn std::fmt::Display) {
    if let Some(without_a_line) = shared.turned_away.ask(time::now()) {
        let limit = shared.connections_max;
        tracing::warn!(limit, %peer, without_a_line, "as many connections as may be; one more is turned away");
    }
}

/// Shakes hands in a task of its own, so that a peer that takes its time holds up nobody else.
fn shake_hands(shared: &Arc<Shared>, connections: &Arc<Connections>, peer: SocketAddr, handshake: Handshake) {
    let (for_task, connections) = (Arc::clone(shared), Arc::clone(connections));
    let within = shared.mux.handshake_timeout;
    shared.handshakes.enter(async move {
        let failed = match tokio::time::timeout(within, handshake).await {
            Ok(Ok(stream)) => return serve(&for_task, &connections, stream),
            Ok(Err(error)) if error.is_hung_up() => return tracing::debug!(%peer, "left during the TLS handshake"),
            Ok(Err(error)) => WithCauses(&error).to_string(),
            Err(_) => format!("no TLS handshake within {within:?}"),
        };
        for_task.handshakes.note_failure(&peer, &failed);
    });
}

/// The handshakes under way: as many as may be, and any one of them goes when there is one more. Not the oldest: whoever opens connections fast enough
/// would make every honest one the oldest before it is done.
pub(super) struct Handshakes {
    limit: usize,
    tasks: Arc<Tasks>,
    open: Mutex<Open>,
    failed: LogGate,
}

#[derive(Default)]
struct Open {
    tasks: Vec<AbortHandle>,
    /// The server is over, and nothing may begin.
    stopped: bool,
}

impl Handshakes {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            tasks: Arc::default(),
            open: Mutex::default(),
            failed: LogGate::default(),
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, handshake: impl Future<Output = ()> + Send + 'static) {
        let mut open = self.open();
        if open.stopped {
            return;
        }
        if open.tasks.len() >= self.limit {
            open.tasks.retain(|task| !task.is_finished());
        }
        let is_full = open.tasks.len() >= self.limit;
        if is_full {
            let at = fastrand::usize(..open.tasks.len());
            open.tasks.swap_remove(at).abort();
        }
        open.tasks.push(self.tasks.spawn(handshake));
        drop(open);
        if is_full {
            self.note_failure(&"one of many", "as many TLS handshakes as may be; one of them is ended");
        }
    }

    fn note_failure(&self, peer: &dyn std::fmt::Display, error: &str) {
        if let Some(without_a_line) = self.failed.ask(time::now()) {
            tracing::warn!(%peer, error, without_a_line, "a connection ended in its handshake");
        }
    }

    /// Resolves when none is under way.
    pub(super) async fn wait(&self) {
        self.tasks.wait().await;
    }

    /// Ends those that are under way; none begins after that.
    pub(super) fn stop(&self) {
        let mut open = self.open();
        open.stopped = true;
        for task in open.tasks.drain(..) {
            task.abort();
        }
    }
}

/// Serves one connection in a task of its own.
pub(super) fn serve(shared: &Arc<Shared>, connections: &Arc<Connections>, mut stream: ByteStream) {
    let siblings = stream.siblings.take();
    let acceptor = ServerConnection::new(Arc::clone(shared));
    let calls = acceptor.calls();
    let (connection, driver) = driver::start(stream, Role::Server, shared.mux.clone(), acceptor);
    let (peer, mut lifecycle) = (connection.peer().clone(), connection.lifecycle());
    let lane = connection.clone();
    // A driver that is dropped closes its connection.
    let id = match connections.insert(Accepted { connection, calls }, shared.connections_max) {
        Ok(id) => id,
        Err(NotTaken::Full) => {
            turned_away(shared, &peer);
            return;
        }
        Err(NotTaken::Stopped) => return,
    };
    let connections = Arc::clone(connections);
    shared.tasks.spawn(driver);
    // The driver may be passed from task to task; the connection's own end is what counts.
    let for_streams = Arc::clone(shared);
    shared.tasks.spawn(async move {
        let served = async {
            match siblings {
                None => drop(end_of(&mut lifecycle).await),
                Some(siblings) => streams::serve(&for_streams, &connections, &*siblings, lane).await,
            }
        };
        match for_streams.age {
            None => served.await,
            // In a box of its own, or every connection would pay for it.
            Some(age) => Box::pin(age.limit(served, &connections, id)).await,
        }
        connections.remove(id);
    });
}

/// Resolves when the connection is over.
pub(super) async fn end_of(lifecycle: &mut watch::Receiver<Lifecycle>) -> Option<ConnectionEnd> {
    let closed = |state: &Lifecycle| matches!(state, Lifecycle::Closed(_));
    // An error means that the connection is gone without a trace, which is an end too.
    match lifecycle.wait_for(closed).await.as_deref() {
        Ok(Lifecycle::Closed(end)) => Some(end.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{LOG_PAUSE, LogGate};

    #[test]
    fn one_line_passes_and_the_others_are_counted() {
        let gate = LogGate::default();
        let now = crate::time::now();
        assert_eq!(gate.ask(now), Some(0));
        for _ in 0..9 {
            assert_eq!(gate.ask(now + LOG_PAUSE / 2), None);
        }
        assert_eq!(gate.ask(now + LOG_PAUSE), Some(9));
        assert_eq!(gate.ask(now + LOG_PAUSE), None);
        assert_eq!(gate.ask(now + LOG_PAUSE * 3), Some(1));
    }
}

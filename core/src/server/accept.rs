//! Takes connections, and keeps taking them when the system is short of descriptors.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Shared;
use super::connection::{Accepted, ServerConnection};
use super::shutdown::{Connections, NotTaken};
use crate::mux::Role;
use crate::time;
use crate::transport::connection::Lifecycle;
use crate::transport::driver;
use crate::transport::io::ByteStream;
use crate::transport::listen::{BACKLOG, Listener};

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
            Ok(stream) => {
                pause = Duration::ZERO;
                serve(&shared, &connections, stream);
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
}

/// Accepts those that the system has connected already. Left alone, they would be reset when the listener closes, after they may have sent calls that
/// nobody can tell were not processed; so they are taken in, and sent away with all others.
async fn take_the_rest(listener: &mut Listener, shared: &Arc<Shared>, connections: &Arc<Connections>) {
    // A second look after the runtime has asked the system once more.
    for _ in 0..2 {
        for _ in 0..BACKLOG {
            let polled = std::future::poll_fn(|task| Poll::Ready(pin!(listener.accept()).poll(task))).await;
            match polled {
                Poll::Ready(Ok(stream)) => serve(shared, connections, stream),
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
}

impl LogGate {
    /// Whether to write a line now, and how many were kept back before it.
    fn ask(&self, now: Instant) -> Option<u64> {
        let mut gate = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if gate.opened.is_some_and(|opened| now.saturating_duration_since(opened) < LOG_PAUSE) {
            gate.kept_back += 1;
            return None;
        }
        gate.opened = Some(now);
        Some(std::mem::take(&mut gate.kept_back))
    }
}

/// Serves one connection in a task of its own.
pub(super) fn serve(shared: &Arc<Shared>, connections: &Arc<Connections>, stream: ByteStream) {
    let acceptor = ServerConnection::new(Arc::clone(shared));
    let calls = acceptor.calls();
    let (connection, driver) = driver::start(stream, Role::Server, shared.mux.clone(), acceptor);
    let (peer, mut lifecycle) = (connection.peer().clone(), connection.lifecycle());
    // A driver that is dropped closes its connection.
    let id = match connections.insert(Accepted { connection, calls }, shared.connections_max) {
        Ok(id) => id,
        Err(NotTaken::Full) => {
            if let Some(without_a_line) = shared.turned_away.ask(time::now()) {
                tracing::warn!(
                    limit = shared.connections_max,
                    %peer,
                    without_a_line,
                    "as many connections as may be; one more is turned away"
                );
            }
            return;
        }
        Err(NotTaken::Stopped) => return,
    };
    let connections = Arc::clone(connections);
    shared.tasks.spawn(driver);
    // The driver may be passed from task to task; the connection's own end is what counts.
    shared.tasks.spawn(async move {
        let closed = |state: &Lifecycle| matches!(state, Lifecycle::Closed(_));
        // An error means that the connection is gone without a trace, which is an end too.
        let _end = lifecycle.wait_for(closed).await;
        connections.remove(id);
    });
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

//! Takes connections, and keeps taking them when the system is short of descriptors.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;

use super::Shared;
use super::connection::{Accepted, ServerConnection};
use super::shutdown::Connections;
use crate::mux::Role;
use crate::transport::connection::Lifecycle;
use crate::transport::driver;
use crate::transport::io::ByteStream;
use crate::transport::listen::{BACKLOG, Listener};

/// The pause after an accept error, growing by doubling: EMFILE does not go away by asking again at once.
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// The longest pause: when descriptors are free again, the server is back within this time.
const PAUSE_MAX: Duration = Duration::from_secs(1);

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

/// Serves one connection in a task of its own.
pub(super) fn serve(shared: &Arc<Shared>, connections: &Arc<Connections>, stream: ByteStream) {
    if connections.len() >= shared.connections_max {
        tracing::warn!(
            limit = shared.connections_max,
            peer = stream.peer(),
            "as many connections as may be; one more is turned away"
        );
        return;
    }
    let acceptor = ServerConnection::new(Arc::clone(shared));
    let calls = acceptor.calls();
    let (connection, driver) = driver::start(stream, Role::Server, shared.mux.clone(), acceptor);
    let mut lifecycle = connection.lifecycle();
    // A driver that is dropped closes its connection.
    let Some(id) = connections.insert(Accepted { connection, calls }) else {
        return;
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

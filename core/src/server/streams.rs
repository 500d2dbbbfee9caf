//! Serves the further streams of a connection, where the transport has several: those beside its lane, with one call at a time each.
//!
//! They end with their lane, unless that was drained: then calls that run are answered, and what comes late is told that it was not processed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Shared;
use super::accept::end_of;
use super::connection::{Accepted, ServerConnection};
use super::shutdown::Connections;
use crate::mux::Role;
use crate::transport::Connection;
use crate::transport::driver;
use crate::transport::io::{ByteStream, Siblings};
use crate::wire::frame::ErrorCode;

/// How long streams that were opened before their connection's end are waited for.
const LAST_STREAMS: Duration = Duration::from_millis(250);

/// How a stream of a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HowEnded {
    /// Because it was not needed any more.
    InOrder,
    /// By the client's doing, before its time.
    InVain,
    /// Because the client does nothing but that.
    Flooded,
}

/// Serves them until the connection is over: its lane, and then the last of them.
pub(super) async fn serve(
    shared: &Arc<Shared>,
    connections: &Arc<Connections>,
    siblings: &dyn Siblings,
    lane: Connection,
) {
    let mut open = JoinSet::new();
    let mut lifecycle = lane.lifecycle();
    let stop = watch::Sender::new(false);
    loop {
        tokio::select! {
            // All are cancel safe: a stream that was not accepted waits, and one that ended is counted when it is looked at.
            end = end_of(&mut lifecycle) => {
                // After a drain calls go on until they are through; else the client has left, or was sent away.
                stop.send_replace(end.is_none_or(|end| end.code() != ErrorCode::None));
                break;
            }
            stream = siblings.accept() => match stream {
                Some(stream) => serve_stream(shared, connections, stream, &stop, &mut open),
                None => break,
            },
            Some(ended) = open.join_next() => match ended {
                Ok(HowEnded::InVain) => lane.count_vain_stream(),
                Ok(HowEnded::Flooded) => lane.close(ErrorCode::CalmDown, "too many calls that came to nothing"),
                Ok(HowEnded::InOrder) | Err(_) => {}
            },
        }
    }
    // What the client opened before it learnt of the end may still arrive: it is told that nothing of it was processed. Meanwhile the last answers get
    // there.
    let refusing = async {
        while let Some(stream) = siblings.accept().await {
            stream.refuse();
        }
    };
    let ending = async {
        while open.join_next().await.is_some() {}
        lane.flushed().await;
        tokio::time::sleep(LAST_STREAMS).await;
    };
    tokio::select! {
        // The client hangs up when it has everything, and then nothing is left to wait for.
        () = refusing => {}
        () = ending => {}
    }
    while open.join_next().await.is_some() {}
}

async fn told(stop: &mut watch::Receiver<bool>) {
    // An error means that whoever tells is gone, with all that it looked after.
    let _told = stop.wait_for(|stop| *stop).await;
}

fn serve_stream(
    shared: &Arc<Shared>,
    connections: &Arc<Connections>,
    stream: ByteStream,
    stop: &watch::Sender<bool>,
    open: &mut JoinSet<HowEnded>,
) {
    let acceptor = ServerConnection::new(Arc::clone(shared));
    let calls = acceptor.calls();
    let (connection, driver) = driver::start(stream, Role::Server, shared.mux.clone(), acceptor);
    let (this, mut lifecycle, mut stop) = (connection.clone(), connection.lifecycle(), stop.subscribe());
    // A driver that is dropped closes its stream.
    let Ok(id) = connections.insert_stream(Accepted { connection, calls }) else {
        return;
    };
    shared.tasks.spawn(driver);
    let connections = Arc::clone(connections);
    open.spawn(async move {
        let end = tokio::select! {
            // Both only watch.
            end = end_of(&mut lifecycle) => end,
            () = told(&mut stop) => {
                this.close(ErrorCode::None, "the connection is over");
                end_of(&mut lifecycle).await
            }
        };
        // What was written last is on its way still; a client that is gone is found out by its silence.
        this.flushed().await;
        connections.remove(id);
        match end.map(|end| (end.is_by_peer(), end.code())) {
            Some((false, ErrorCode::CalmDown)) => HowEnded::Flooded,
            None | Some((_, ErrorCode::Idle) | (false, ErrorCode::None)) => HowEnded::InOrder,
            Some(_) => HowEnded::InVain,
        }
    });
}

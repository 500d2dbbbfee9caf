//! 0-RTT: what a client may send before the handshake is done, when it has spoken to the server before.
//!
//! Whoever recorded such a first flight can send it again, and a server cannot tell by the flight itself. The sessions of a server here are good for one
//! connection each, so the one that took it takes it no second time; but it may never have come there, or come to a copy of it. So only calls of methods
//! that are marked idempotent go early: the client keeps all others back until the handshake is done, and the server refuses those that come
//! before. Source: RFC 8446 section 8, RFC 9001 section 9.2.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use quinn::ZeroRttAccepted;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::stream::wire_code;
use crate::transport::io::Early;
use crate::wire::frame::ErrorCode;

/// At a server.
pub(super) struct ServerEarly {
    handshake: Mutex<ZeroRttAccepted>,
    done: AtomicBool,
}

impl ServerEarly {
    pub(super) fn new(handshake: ZeroRttAccepted) -> Self {
        Self {
            handshake: Mutex::new(handshake),
            done: AtomicBool::new(false),
        }
    }
}

impl Early for ServerEarly {
    /// Asks the handshake itself: news of it that a task passes on could come after the first bytes behind it.
    fn is_over(&self) -> bool {
        if self.done.load(Ordering::Acquire) {
            return true;
        }
        let mut handshake = self.handshake.lock().unwrap_or_else(PoisonError::into_inner);
        let mut nobody = Context::from_waker(Waker::noop());
        // A finished future is not polled again: the lock is held from the look to the note.
        if self.done.load(Ordering::Acquire) {
            return true;
        }
        let done = pin!(&mut *handshake).poll(&mut nobody).is_ready();
        self.done.store(done, Ordering::Release);
        done
    }

    fn over(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        // A server waits for no client: it refuses.
        Box::pin(std::future::ready(()))
    }
}

/// At a client.
pub(super) struct ClientEarly {
    over: watch::Receiver<bool>,
    watching: AbortHandle,
}

impl ClientEarly {
    /// Follows the handshake, for the time `within`, and then closes the connection unless the server is `trusted` still; `refused` is set if it took nothing of
    /// what was sent early, and cleared if it did. Within a runtime.
    pub(super) fn new(
        connection: quinn::Connection,
        handshake: ZeroRttAccepted,
        refused: Arc<AtomicBool>,
        within: Duration,
        trusted: impl FnOnce(&quinn::Connection) + Send + 'static,
    ) -> Self {
        let (done, over) = watch::channel(false);
        let watching = tokio::spawn(async move {
            match tokio::time::timeout(within, handshake).await {
                Ok(accepted) => {
                    refused.store(!accepted, Ordering::Relaxed);
                    trusted(&connection);
                }
                // Nobody waits for the handshake, so nobody else gives it up.
                Err(_) => connection.close(wire_code(ErrorCode::HandshakeTimeout), b"the server did not answer"),
            }
            done.send_replace(true);
        });
        Self {
            over,
            watching: watching.abort_handle(),
        }
    }
}

impl Drop for ClientEarly {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl Early for ClientEarly {
    fn is_over(&self) -> bool {
        *self.over.borrow()
    }

    fn over(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let mut over = self.over.clone();
        Box::pin(async move {
            // An error means that the connection is gone, which whoever waits will see.
            let _over = over.wait_for(|over| *over).await;
        })
    }
}

//! An established connection: where its streams come from.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use quinn::{RecvStream, SendStream};

use super::handshake::chain_of;
use super::socket::ClientSocket;
use super::stream;
use crate::context::Identity;
use crate::mux::{Company, Group};
use crate::policy::loss::LossWatch;
use crate::transport::io::{ByteStream, Early, Reader, Siblings, Writer};
use crate::transport::tls::identity_of;

/// The lane goes before streams that carry one large call each: small calls must not wait behind their bytes.
const LANE_PRIORITY: i32 = 1;
/// Calls between two looks at the losses: looking takes the connection's lock.
const CALLS_PER_LOOK: u32 = 64;

/// A QUIC connection, as its streams share it.
pub(super) struct QuicConnection {
    connection: quinn::Connection,
    group: Arc<Group>,
    peer: String,
    identity: Option<Arc<Identity>>,
    loss: Loss,
    early: Option<Arc<dyn Early>>,
    /// A client's connection keeps its socket.
    _socket: Option<Arc<ClientSocket>>,
}

impl QuicConnection {
    pub(super) fn new(connection: quinn::Connection, socket: Option<Arc<ClientSocket>>) -> Self {
        Self {
            peer: format!("quic://{}", connection.remote_address()),
            identity: chain_of(&connection).map(|chain| identity_of(&chain)),
            group: Arc::default(),
            loss: Loss::default(),
            early: None,
            connection,
            _socket: socket,
        }
    }

    /// The same connection before its handshake is done.
    pub(super) fn with_early(mut self, early: impl Early) -> Self {
        self.early = Some(Arc::new(early));
        self
    }

    /// The stream that small calls share.
    pub(super) fn lane(self, send: SendStream, receive: RecvStream) -> ByteStream {
        // Fails only if the stream has ended, which its first write tells.
        let _alive = send.set_priority(LANE_PRIORITY);
        let company = Company::Lane(Arc::clone(&self.group));
        let stream = self.byte_stream(send, receive, company);
        stream.with_siblings(Arc::new(self))
    }

    fn byte_stream(&self, send: SendStream, receive: RecvStream, company: Company) -> ByteStream {
        let (reader, writer) = stream::halves(send, receive);
        ByteStream::made_of(Reader::Quic(reader), Writer::Quic(writer), self.peer.clone())
            .with_identity(self.identity.clone())
            .with_early(self.early.clone())
            .in_company(company)
    }

    fn exclusive(&self, (send, receive): (SendStream, RecvStream)) -> ByteStream {
        self.byte_stream(send, receive, Company::Exclusive(self.group.exclusive()))
    }
}

/// Whether the path loses packets, looked at now and then.
#[derive(Default)]
struct Loss {
    calls: AtomicU32,
    lossy: AtomicBool,
    watch: Mutex<LossWatch>,
}

impl Loss {
    fn look(&self, connection: &quinn::Connection) -> bool {
        if self.calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(CALLS_PER_LOOK) {
            let path = connection.stats().path;
            let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
            let lossy = watch.update(path.sent_packets, path.lost_packets);
            if self.lossy.swap(lossy, Ordering::Relaxed) != lossy {
                tracing::debug!(lossy, rtt = ?path.rtt, "the path loses packets, or does so no more");
            }
        }
        self.lossy.load(Ordering::Relaxed)
    }
}

impl Siblings for QuicConnection {
    fn spreads_calls(&self) -> bool {
        self.loss.look(&self.connection)
    }

    fn open(&self) -> Option<ByteStream> {
        let mut task = Context::from_waker(Waker::noop());
        match pin!(self.connection.open_bi()).poll(&mut task) {
            Poll::Ready(Ok(halves)) => Some(self.exclusive(halves)),
            // As many as the peer allows are open, or the connection is over.
            Poll::Pending | Poll::Ready(Err(_)) => None,
        }
    }

    fn accept(&self) -> Pin<Box<dyn Future<Output = Option<ByteStream>> + Send + '_>> {
        Box::pin(async {
            let halves = self.connection.accept_bi().await.ok()?;
            Some(self.exclusive(halves))
        })
    }
}

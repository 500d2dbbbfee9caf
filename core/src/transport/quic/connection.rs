//! An established connection: where its streams come from.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use quinn::{RecvStream, SendStream};
use rustls::pki_types::CertificateDer;

use super::stream;
use crate::context::Identity;
use crate::mux::{Company, Group};
use crate::transport::io::{ByteStream, Reader, Siblings, Writer};
use crate::transport::tls::identity_of;

/// The lane goes before streams that carry one large call each: small calls must not wait behind their bytes.
const LANE_PRIORITY: i32 = 1;

/// A QUIC connection, as its streams share it.
pub(super) struct QuicConnection {
    connection: quinn::Connection,
    group: Arc<Group>,
    peer: String,
    identity: Option<Arc<Identity>>,
    /// A client's connection keeps its endpoint.
    _endpoint: Option<quinn::Endpoint>,
}

impl QuicConnection {
    pub(super) fn new(connection: quinn::Connection, endpoint: Option<quinn::Endpoint>) -> Self {
        let chain = connection.peer_identity().and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok());
        Self {
            peer: format!("quic://{}", connection.remote_address()),
            identity: chain.map(|chain| identity_of(&chain)),
            group: Arc::default(),
            connection,
            _endpoint: endpoint,
        }
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
            .in_company(company)
    }

    fn exclusive(&self, (send, receive): (SendStream, RecvStream)) -> ByteStream {
        self.byte_stream(send, receive, Company::Exclusive(self.group.exclusive()))
    }
}

impl Siblings for QuicConnection {
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

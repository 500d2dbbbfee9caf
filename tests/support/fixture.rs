//! The kinds of byte streams that a test runs over, and a server with a channel to it on each.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sinew::transport::{ByteStream, ConnectError, pair};
use sinew::{Channel, ChannelBuilder, Connector, ServerBuilder, Serving};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use super::certs::Authority;
use super::cut::by_one_byte;

/// What a connection is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fixture {
    /// TCP over loopback.
    Tcp,
    /// Unix sockets.
    Unix,
    /// Memory.
    Mem,
    /// TLS over loopback.
    Tls,
    /// QUIC over loopback.
    Quic,
    /// TCP over loopback, with every read and every write cut to one byte on both sides.
    TcpByOneByte,
}

impl Fixture {
    /// Fewer rounds where each of them costs a system call per byte.
    pub(crate) fn rounds(self, rounds: usize) -> usize {
        match self {
            Self::Tcp | Self::Unix | Self::Mem | Self::Tls | Self::Quic => rounds,
            Self::TcpByOneByte => rounds.div_ceil(50).max(2),
        }
    }

    /// The two ends of a connection.
    pub(crate) async fn ends(self) -> (ByteStream, ByteStream) {
        match self {
            Self::Tcp => tcp_pair().await,
            Self::Unix => {
                let (ours, theirs) = UnixStream::pair().unwrap();
                (ByteStream::unix(ours), ByteStream::unix(theirs))
            }
            Self::Mem => pair(),
            Self::Tls | Self::Quic => panic!("encrypted ends are made by listeners and channels alone"),
            Self::TcpByOneByte => {
                let (ours, theirs) = tcp_pair().await;
                (by_one_byte(ours), by_one_byte(theirs))
            }
        }
    }

    /// An address to listen on that nobody else uses; `None` where streams are made by hand.
    pub(crate) fn address(self) -> Option<String> {
        match self {
            Self::Tcp => Some("tcp://127.0.0.1:0".to_owned()),
            Self::Unix => Some(format!("unix:{}", socket_path().display())),
            Self::Mem => Some(format!("mem:{}", unique("fixture"))),
            Self::Tls => Some("tls://127.0.0.1:0".to_owned()),
            Self::Quic => Some("quic://127.0.0.1:0".to_owned()),
            Self::TcpByOneByte => None,
        }
    }

    /// Starts the server on this fixture and a channel to it.
    pub(crate) async fn serve(self, server: ServerBuilder) -> Served {
        self.serve_with(server, Channel::builder()).await
    }

    /// The same with settings for the channel.
    pub(crate) async fn serve_with(self, mut server: ServerBuilder, mut client: ChannelBuilder) -> Served {
        if matches!(self, Self::Tls | Self::Quic) {
            server = server.tls(Authority::shared().server());
            client = client.tls(Authority::shared().client());
        }
        let (serving, channel) = match self.address() {
            Some(address) => {
                let serving = Arc::new(server.bind(address).start().await.unwrap());
                let channel = client.lazy(&serving.target()).unwrap();
                (serving, channel)
            }
            None => {
                let serving = Arc::new(server.start().await.unwrap());
                let to = Arc::clone(&serving);
                let channel = client.with_connector("test:", connector(self, move |stream| to.accept(stream)));
                (serving, channel.unwrap())
            }
        };
        Served { channel, serving }
    }
}

/// A server and a channel to it; the server stops when this is dropped.
pub(crate) struct Served {
    pub(crate) channel: Channel,
    pub(crate) serving: Arc<Serving>,
}

/// A connector that makes both ends and gives the far one to `accept`.
pub(crate) fn connector(fixture: Fixture, accept: impl Fn(ByteStream) + Send + Sync + 'static) -> impl Connector {
    let accept = Arc::new(accept);
    connect_with(move || {
        let accept = Arc::clone(&accept);
        Box::pin(async move {
            let (ours, theirs) = fixture.ends().await;
            accept(theirs);
            Ok(ours)
        })
    })
}

/// A connector made of a closure.
pub(crate) fn connect_with(connect: impl Fn() -> Connecting + Send + Sync + 'static) -> impl Connector {
    ConnectWith(connect)
}

struct ConnectWith<F>(F);

/// One attempt to connect.
pub(crate) type Connecting = Pin<Box<dyn Future<Output = Result<ByteStream, ConnectError>> + Send>>;

impl<F: Fn() -> Connecting + Send + Sync + 'static> Connector for ConnectWith<F> {
    fn connect(&self) -> Pin<Box<dyn Future<Output = Result<ByteStream, ConnectError>> + Send + '_>> {
        (self.0)()
    }
}

/// A name that no other test of this or another process uses.
pub(crate) fn unique(stem: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("{stem}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The path of a socket that does not exist yet.
pub(crate) fn socket_path() -> std::path::PathBuf {
    std::env::temp_dir().join(format!("{}.sock", unique("sinew")))
}

async fn tcp_pair() -> (ByteStream, ByteStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (theirs, peer) = theirs.unwrap();
    (ByteStream::tcp(ours.unwrap(), address), ByteStream::tcp(theirs, peer))
}

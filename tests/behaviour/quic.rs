//! What is particular to QUIC: streams of their own, addresses that change, sessions that are resumed, handshakes that fail, and the way around UDP. The
//! interop cases, deadlines, cancellation and streaming run over QUIC like over everything else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rcgen::date_time_ymd;
use sinew::{
    Channel, ClientQuic, ClientTls, Code, ConnectivityState, Cx, Drain, Server, ServerBuilder, ServerQuic, ServerTls,
    Serving, Status, Streaming, service,
};
use tokio::net::UdpSocket;
use tokio::sync::Notify;

use crate::support::bounded;
use crate::support::certs::Authority;
use crate::support::relay::Relay;

#[service]
trait Depot {
    async fn echo(&self, text: String) -> String;
    async fn whoami(&self, cx: &Cx) -> String;
    async fn size(&self, body: bytes::Bytes) -> u64;
    async fn count(&self, from: u64) -> Result<Streaming<u64>, Status>;
    async fn pair(&self, from: u64) -> Result<Streaming<u64>, Status>;
    async fn hold(&self) -> u64;
    #[rpc(idempotent)]
    async fn look(&self) -> usize;
    async fn take(&self) -> usize;
    async fn store(&self, pieces: Streaming<bytes::Bytes>) -> u64;
}

/// Holds calls until they are let go.
#[derive(Clone, Default)]
struct Store {
    held: Arc<AtomicUsize>,
    looked: Arc<AtomicUsize>,
    taken: Arc<AtomicUsize>,
    storing: Arc<AtomicUsize>,
    let_go: Arc<Notify>,
}

#[service]
impl Depot for Store {
    async fn echo(&self, text: String) -> String {
        text
    }

    async fn whoami(&self, cx: &Cx) -> String {
        cx.peer().map(|peer| peer.address().to_owned()).unwrap_or_default()
    }

    async fn size(&self, body: bytes::Bytes) -> u64 {
        body.len() as u64
    }

    async fn count(&self, from: u64) -> Result<Streaming<u64>, Status> {
        Ok(Streaming::iter(from..))
    }

    async fn pair(&self, from: u64) -> Result<Streaming<u64>, Status> {
        Ok(Streaming::iter(from..from + 2))
    }

    async fn look(&self) -> usize {
        self.looked.fetch_add(1, Ordering::SeqCst)
    }

    async fn take(&self) -> usize {
        self.taken.fetch_add(1, Ordering::SeqCst)
    }

    async fn store(&self, mut pieces: Streaming<bytes::Bytes>) -> u64 {
        let held = Held::new(&self.storing);
        self.let_go.notified().await;
        let mut bytes = 0;
        while let Some(Ok(piece)) = pieces.next().await {
            bytes += piece.len() as u64;
        }
        drop(held);
        bytes
    }

    async fn hold(&self) -> u64 {
        self.held.fetch_add(1, Ordering::SeqCst);
        self.let_go.notified().await;
        7
    }
}

/// Counts a handler for as long as it lives.
struct Held(Arc<AtomicUsize>);

impl Held {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn builder(store: &Store) -> ServerBuilder {
    Server::builder()
        .service(DepotServer::new(store.clone()))
        .drain(Drain::default().lame_duck("0s"))
        .tls(Authority::shared().server())
}

async fn server(store: &Store) -> Serving {
    builder(store).bind("quic://127.0.0.1:0").start().await.unwrap()
}

fn client_at(target: &str) -> DepotClient {
    let channel = Channel::builder().tls(Authority::shared().client()).lazy(target).unwrap();
    DepotClient::from_channel(channel)
}

fn client(serving: &Serving) -> DepotClient {
    client_at(&serving.target())
}

/// Waits until as many calls are held.
async fn held(store: &Store, calls: usize) {
    while store.held.load(Ordering::SeqCst) < calls {
        tokio::task::yield_now().await;
    }
}

fn address(serving: &Serving) -> SocketAddr {
    serving.target().strip_prefix("quic://").unwrap().parse().unwrap()
}

#[tokio::test]
async fn calls_survive_that_their_client_gets_another_address() {
    bounded(async {
        let store = Store::default();
        let serving = server(&store).await;
        let relay = Relay::in_front_of(address(&serving)).await;
        let client = client_at(&relay.target());
        let mut counting = client.count(0).await.unwrap();
        assert_eq!(counting.next().await.unwrap().unwrap(), 0);
        for change in 1..=3 {
            let held_call = tokio::spawn(client.hold().into_future());
            held(&store, change).await;
            relay.change_address().await;
            // What the client sends next comes from elsewhere.
            assert_eq!(client.echo("moved".to_owned()).await.unwrap(), "moved");
            store.let_go.notify_one();
            assert_eq!(held_call.await.unwrap().unwrap(), 7, "a call that ran goes on");
            assert!(counting.next().await.unwrap().is_ok(), "and a stream");
        }
        assert_eq!(serving.connections(), 1, "it is the same connection");
        drop(counting);
        serving.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_nobody_reads_holds_up_nobody_else() {
    bounded(async {
        let serving = server(&Store::default()).await;
        let client = client(&serving);
        let unread: Vec<_> = futures_util::future::join_all((0..20).map(|_| client.count(0).into_future())).await;
        let body = bytes::Bytes::from(vec![7; 3 * 1024 * 1024]);
        for _ in 0..3 {
            assert_eq!(client.size(body.clone()).await.unwrap(), body.len() as u64);
            assert_eq!(client.echo("small".to_owned()).await.unwrap(), "small");
        }
        for stream in unread {
            assert_eq!(stream.unwrap().next().await.unwrap().unwrap(), 0);
        }
    })
    .await;
}

/// More streaming calls than QUIC streams may be open: those above share the lane.
#[tokio::test]
async fn calls_above_the_limit_of_streams_share_the_lane() {
    bounded(async {
        let serving = server(&Store::default()).await;
        let client = client(&serving);
        let mut streams = Vec::new();
        for number in 0..300 {
            let mut stream = client.pair(number).await.unwrap();
            assert_eq!(stream.next().await.unwrap().unwrap(), number);
            streams.push(stream);
        }
        for (stream, number) in streams.iter_mut().zip(0..) {
            assert_eq!(stream.next().await.unwrap().unwrap(), number + 1);
        }
        assert_eq!(serving.connections(), 1);
    })
    .await;
}

/// The limit holds for calls on streams of their own and on the lane together; the client waits above it.
#[tokio::test]
async fn calls_wait_at_the_limit_of_their_connection() {
    bounded(async {
        let store = Store::default();
        let limited = builder(&store).max_calls_per_connection(4);
        let serving = limited.bind("quic://127.0.0.1:0").start().await.unwrap();
        let client = client(&serving);
        client.echo("ready".to_owned()).await.unwrap();
        let mut streams = Vec::new();
        for number in 0..2 {
            streams.push(client.count(number).await.unwrap());
        }
        let held_calls = [
            tokio::spawn(client.hold().into_future()),
            tokio::spawn(client.hold().into_future()),
        ];
        held(&store, 2).await;
        let mut fifth = std::pin::pin!(client.echo("fifth".to_owned()).into_future());
        let waits = tokio::time::timeout(Duration::from_millis(50), &mut fifth).await;
        assert!(waits.is_err(), "four are open");
        streams.pop();
        assert_eq!(
            fifth.await.unwrap(),
            "fifth",
            "the end of a stream makes room on the lane"
        );
        store.let_go.notify_waiters();
        for call in held_calls {
            assert_eq!(call.await.unwrap().unwrap(), 7);
        }
        drop(streams);
        serving.shutdown().await;
    })
    .await;
}

/// The message of the failure to connect.
async fn refusal(tls: ClientTls, target: &str) -> String {
    let error = Channel::builder().tls(tls).connect(target).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    error.message().to_owned()
}

#[tokio::test]
async fn failures_to_connect_name_their_cause() {
    bounded(async {
        let authority = Authority::shared();
        let store = Store::default();
        let serving = server(&store).await;
        let target = serving.target();
        let message = refusal(Authority::new("stranger").client(), &target).await;
        assert!(message.contains("signed by nobody that this side trusts"), "{message}");
        let message = refusal(authority.client().server_name("orders.internal").unwrap(), &target).await;
        assert!(message.contains("for other names than the one called"), "{message}");

        let dated = |from, until| {
            let (chain, key) = authority.sign_with(&["localhost", "127.0.0.1"], |params| {
                params.not_before = from;
                params.not_after = until;
            });
            ServerTls::from_pem(chain, key).unwrap()
        };
        for (from, until, expected) in [
            (date_time_ymd(2019, 1, 1), date_time_ymd(2020, 1, 1), "has expired"),
            (date_time_ymd(2090, 1, 1), date_time_ymd(2091, 1, 1), "is not valid yet"),
        ] {
            let wrong = builder(&store).tls(dated(from, until)).bind("quic://127.0.0.1:0").start().await.unwrap();
            let message = refusal(authority.client(), &wrong.target()).await;
            assert!(message.contains(expected), "{message}");
        }

        let strict = authority.server().client_roots_pem(authority.pem()).unwrap();
        let strict = builder(&store).tls(strict).bind("quic://127.0.0.1:0").start().await.unwrap();
        let message = refusal(authority.client(), &strict.target()).await;
        assert!(message.contains("ClientTls::identity_pem"), "{message}");
        let (chain, key) = Authority::new("other clients").sign(&["till.internal"]);
        let shown = authority.client().identity_pem(chain, key).unwrap();
        let message = refusal(shown, &strict.target()).await;
        assert!(message.contains("does not accept this side's certificate"), "{message}");
        let (chain, key) = authority.sign(&["till.internal"]);
        let shown = authority.client().identity_pem(chain, key).unwrap();
        Channel::builder().tls(shown).connect(&strict.target()).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn nobody_there_and_nobody_answering_are_told_apart() {
    bounded(async {
        let port = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let message = refusal(Authority::shared().client(), &format!("quic://127.0.0.1:{port}")).await;
        assert!(message.contains("onnection refused"), "{message}");

        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let target = format!("quic://{}", silent.local_addr().unwrap());
        let impatient = Channel::builder().tls(Authority::shared().client()).connect_timeout("200ms");
        let error = impatient.connect(&target).await.unwrap_err();
        assert!(error.message().contains("within 200ms"), "{error}");
    })
    .await;
}

/// A server that has stopped listening refuses, as long as its port is its own.
#[tokio::test]
async fn a_server_that_drains_refuses_new_clients() {
    bounded(async {
        let store = Store::default();
        let serving = server(&store).await;
        let target = serving.target();
        let lasting = client(&serving);
        let held_call = tokio::spawn(lasting.hold().into_future());
        held(&store, 1).await;
        let shutdown = tokio::spawn(serving.shutdown());
        loop {
            let tls = Authority::shared().client();
            let attempt = Channel::builder().tls(tls).connect_timeout("200ms").connect(&target).await;
            if let Err(error) = attempt {
                assert!(error.message().contains("refused"), "{error}");
                break;
            }
        }
        store.let_go.notify_one();
        assert_eq!(held_call.await.unwrap().unwrap(), 7, "what runs is answered");
        shutdown.await.unwrap();
        // Then the port is free for the next.
        let address = target.strip_prefix("quic://").unwrap();
        while UdpSocket::bind(address).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Clients that have to prove their address, and several sockets at one port.
#[tokio::test]
async fn a_retry_and_shared_ports_go_unnoticed() {
    bounded(async {
        let store = Store::default();
        let careful = builder(&store).quic(ServerQuic::new().retry_above(0).sockets(3));
        let serving = careful.bind("quic://127.0.0.1:0").start().await.unwrap();
        for number in 0..12 {
            let client = client(&serving);
            assert_eq!(client.echo(number.to_string()).await.unwrap(), number.to_string());
        }
        for sockets in [0, 65] {
            let wrong = builder(&store).quic(ServerQuic::new().sockets(sockets)).bind("quic://127.0.0.1:0");
            let error = wrong.start().await.unwrap_err();
            assert!(error.to_string().contains("quic.sockets"), "{error}");
        }
        let error = builder(&store).quic(ServerQuic::new()).bind("tls://127.0.0.1:0").start().await.unwrap_err();
        assert!(error.to_string().contains("no address is quic:// or"), "{error}");
        let error = Channel::builder().quic(ClientQuic::new()).lazy("tls://127.0.0.1:1").unwrap_err();
        assert!(error.message().contains("`.quic(..)` would do nothing"), "{error}");
        serving.shutdown().await;
    })
    .await;
}

#[tokio::test]
async fn quic_tcp_takes_what_gets_through() {
    bounded(async {
        let store = Store::default();
        let serving = builder(&store).bind("quic+tcp://127.0.0.1:0").start().await.unwrap();
        let addresses: Vec<String> = serving.addresses().iter().map(ToString::to_string).collect();
        let [quic, tls] = &addresses[..] else {
            panic!("{addresses:?}")
        };
        let host = quic.strip_prefix("quic://").unwrap();
        assert_eq!(tls.strip_prefix("tls://"), Some(host), "the same port");
        let peer = client_at(&format!("quic+tcp://{host}")).whoami().await.unwrap();
        assert!(peer.starts_with("quic://"), "{peer}");

        // Only TCP is there: refused at once, so it does not take the head start of QUIC.
        let only_tcp = builder(&store).bind("tls://127.0.0.1:0").start().await.unwrap();
        let target = only_tcp.target().replace("tls://", "quic+tcp://");
        let peer = client_at(&target).whoami().await.unwrap();
        assert!(peer.starts_with("tls://"), "{peer}");

        // UDP goes nowhere: the first call waits for no more than the head start.
        let silent = UdpSocket::bind(only_tcp.target().strip_prefix("tls://").unwrap()).await.unwrap();
        let peer = client_at(&target).whoami().await.unwrap();
        assert!(peer.starts_with("tls://"), "{peer}");
        drop((silent, only_tcp));

        let error = Channel::builder().tls(Authority::shared().client()).connect(&target).await.unwrap_err();
        assert!(error.message().contains("neither over QUIC"), "{error}");
    })
    .await;
}

/// With 0-RTT an idempotent call reaches a known server with the first packet, and any other waits until the handshake is done.
#[tokio::test(start_paused = true)]
async fn where_neither_gets_through_both_causes_are_told() {
    // It takes datagrams and answers none, and nobody listens at its number over TCP.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let target = format!("quic+tcp://{}", silent.local_addr().unwrap());
    let failed = Channel::builder().connect_timeout("400ms").connect(&target).await.unwrap_err();
    let told = failed.message();
    assert!(told.contains("neither over QUIC (no connection to quic://"), "{told}");
    assert!(told.contains("refused"), "{told}");
}

#[tokio::test]
async fn idempotent_calls_alone_go_before_the_handshake() {
    bounded(async {
        let store = Store::default();
        let early = builder(&store).quic(ServerQuic::new().zero_rtt());
        let serving = early.bind("quic://127.0.0.1:0").start().await.unwrap();
        let relay = Relay::in_front_of(address(&serving)).await;
        let channel = Channel::builder()
            .tls(Authority::shared().client())
            .quic(ClientQuic::new().zero_rtt())
            .connect_timeout("5s")
            .idle_timeout("1200ms")
            .lazy(&relay.target())
            .unwrap();
        let client = DepotClient::from_channel(channel.clone());
        for round in 0..2 {
            // The first connection makes the session; later ones resume it.
            if round > 0 {
                relay.set_deaf(true);
                let take = tokio::spawn(client.take().into_future());
                let look = tokio::spawn(client.look().into_future());
                while store.looked.load(Ordering::SeqCst) < 2 * round {
                    tokio::task::yield_now().await;
                }
                assert_eq!(
                    store.taken.load(Ordering::SeqCst),
                    2 * round - 1,
                    "it waits for the handshake"
                );
                relay.set_deaf(false);
                assert_eq!(look.await.unwrap().unwrap(), 2 * round - 1);
                assert_eq!(take.await.unwrap().unwrap(), 2 * round - 1);
            }
            assert_eq!(client.look().await.unwrap(), 2 * round);
            assert_eq!(client.take().await.unwrap(), 2 * round);
            let mut states = channel.states();
            while states.next().await != Some(ConnectivityState::Idle) {}
        }
        serving.shutdown().await;
    })
    .await;
}

/// A server that was started anew knows no sessions: what was sent early is sent again.
#[tokio::test]
async fn early_calls_survive_a_server_that_forgot_the_session() {
    bounded(async {
        let store = Store::default();
        let start = async |address: &str| {
            let early = builder(&store).quic(ServerQuic::new().zero_rtt());
            early.bind(address).start().await
        };
        let serving = start("quic://127.0.0.1:0").await.unwrap();
        let target = serving.target();
        let channel = Channel::builder()
            .tls(Authority::shared().client())
            .quic(ClientQuic::new().zero_rtt())
            .wait_for_ready()
            .lazy(&target)
            .unwrap();
        let client = DepotClient::from_channel(channel);
        assert_eq!(client.look().await.unwrap(), 0);
        serving.shutdown().await;
        let serving = loop {
            if let Ok(serving) = start(&target).await {
                break serving;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(client.look().await.unwrap(), 1);
        assert_eq!(client.take().await.unwrap(), 0);
        serving.shutdown().await;
    })
    .await;
}

const UPLOADS: usize = 24;

fn pieces() -> Streaming<bytes::Bytes> {
    let piece = bytes::Bytes::from(vec![7; 64 * 1024]);
    Streaming::iter((0..64).map(move |_| piece.clone()))
}

/// Handlers that do not read yet: together they hold no more than the connection may, and go on when they read.
#[tokio::test]
async fn uploads_that_nobody_reads_wait_and_go_on() {
    bounded(async {
        let store = Store::default();
        let limits = sinew::Limits {
            connection_window: 1024 * 1024,
            ..sinew::Limits::default()
        };
        let narrow = builder(&store).limits(limits);
        let serving = narrow.bind("quic://127.0.0.1:0").start().await.unwrap();
        let client = client(&serving);
        let upload = || (0..UPLOADS).map(|_| tokio::spawn(client.store(pieces()).into_future())).collect::<Vec<_>>();
        let storing = async |calls: usize| {
            while store.storing.load(Ordering::SeqCst) != calls {
                tokio::task::yield_now().await;
            }
        };
        let uploads = upload();
        storing(UPLOADS).await;
        // The lane is not held up.
        assert_eq!(client.echo("small".to_owned()).await.unwrap(), "small");
        store.let_go.notify_waiters();
        for upload in uploads {
            assert_eq!(upload.await.unwrap().unwrap(), 64 * 64 * 1024);
        }
        // Of those that wait, the server learns that their clients are gone.
        let uploads = upload();
        storing(UPLOADS).await;
        for upload in &uploads {
            upload.abort();
        }
        storing(0).await;
        assert_eq!(client.echo("small".to_owned()).await.unwrap(), "small");
        serving.shutdown().await;
    })
    .await;
}

/// A stream whose call ended by its deadline is not given to the next call while the server may still be at it.
#[tokio::test]
async fn calls_that_time_out_spoil_nothing_for_the_next() {
    bounded(async {
        let serving = server(&Store::default()).await;
        let client = client(&serving);
        for _ in 0..20 {
            let error = client.store(pieces()).timeout("5ms").await.unwrap_err();
            assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
            let mut pair = client.pair(1).await.unwrap();
            assert_eq!(pair.next().await.unwrap().unwrap(), 1);
        }
        serving.shutdown().await;
    })
    .await;
}

/// A certificate that was renewed ends all sessions; what a client sends early then is sent again, without a failure that anybody sees.
#[tokio::test]
async fn early_calls_that_are_not_taken_are_no_failure() {
    bounded(async {
        let store = Store::default();
        let folder = std::env::temp_dir().join(crate::support::fixture::unique("sinew-early"));
        std::fs::create_dir_all(&folder).unwrap();
        let (chain_file, key_file) = (folder.join("cert.pem"), folder.join("key.pem"));
        let put = || {
            let (chain, key) = Authority::shared().sign(&["127.0.0.1"]);
            std::fs::write(&chain_file, chain).unwrap();
            std::fs::write(&key_file, key).unwrap();
        };
        put();
        let tls = ServerTls::from_pem_files(&chain_file, &key_file).unwrap();
        let early = builder(&store).tls(tls.clone()).quic(ServerQuic::new().zero_rtt());
        let serving = early.bind("quic://127.0.0.1:0").start().await.unwrap();
        let channel = Channel::builder()
            .tls(Authority::shared().client())
            .quic(ClientQuic::new().zero_rtt())
            .idle_timeout("1200ms")
            .lazy(&serving.target())
            .unwrap();
        let client = DepotClient::from_channel(channel.clone());
        client.look().await.unwrap();
        let mut states = channel.states();
        while states.next().await != Some(ConnectivityState::Idle) {}
        put();
        let _is_new = tls.reload().unwrap();
        assert_eq!(client.look().await.unwrap(), 1);
        assert_eq!(client.take().await.unwrap(), 0);
        serving.shutdown().await;
        std::fs::remove_dir_all(&folder).unwrap();
    })
    .await;
}

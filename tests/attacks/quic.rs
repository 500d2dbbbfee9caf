//! Rows 23, 24, 26, 29, 34 and 35 at a QUIC port, and the floods that streams of their own make possible.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sinew::{Channel, ClientQuic, Drain, Server, ServerBuilder, ServerQuic, Serving};
use tokio::net::UdpSocket;

use super::arena::{TargetClient, TargetServer, Victim};
use super::bad::{PATIENCE, PREFACE, hello, nothing, open};
use super::certs::Authority;
use super::relay::Relay;

const ALPN: &[u8] = b"sinew/1";

async fn server(set: impl FnOnce(ServerBuilder) -> ServerBuilder) -> (Serving, Victim) {
    let victim = Victim::default();
    let builder = Server::builder()
        .service(TargetServer::new(victim.clone()))
        .tls(Authority::shared().server())
        .drain(Drain::default().lame_duck("0s"))
        .bind("quic://127.0.0.1:0");
    (set(builder).start().await.unwrap(), victim)
}

fn good(serving: &Serving) -> TargetClient {
    let channel = Channel::builder().tls(Authority::shared().client()).lazy(&serving.target()).unwrap();
    TargetClient::from_channel(channel)
}

fn address(serving: &Serving) -> SocketAddr {
    serving.target().strip_prefix("quic://").unwrap().parse().unwrap()
}

fn roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(Authority::shared().pem().as_bytes()).unwrap()).unwrap();
    roots
}

/// A client of the QUIC library alone, which says what it likes.
fn bad_endpoint(alpn: &[u8]) -> quinn::Endpoint {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots())
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn.to_vec()];
    tls.enable_early_data = true;
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let mut endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
    endpoint.set_default_client_config(config);
    endpoint
}

async fn bad(serving: &Serving) -> quinn::Connection {
    bad_endpoint(ALPN).connect(address(serving), "localhost").unwrap().await.unwrap()
}

/// Opens the lane and greets.
async fn greet(connection: &quinn::Connection) -> (quinn::SendStream, quinn::RecvStream) {
    let (mut send, receive) = connection.open_bi().await.unwrap();
    send.write_all(&[PREFACE, &hello()].concat()).await.unwrap();
    (send, receive)
}

async fn answers(good: &TargetClient) {
    assert_eq!(good.echo("good".to_owned()).timeout(PATIENCE).await.unwrap(), "good");
}

async fn gone(connection: &quinn::Connection) -> quinn::ConnectionError {
    tokio::time::timeout(PATIENCE, connection.closed()).await.expect("the connection ends")
}

/// The first packet of an honest client.
async fn first_packet() -> Vec<u8> {
    let recorder = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let dialling = bad_endpoint(ALPN);
    let _handshake = dialling.connect(recorder.local_addr().unwrap(), "localhost").unwrap();
    let mut initial = vec![0; 2_000];
    let (len, _) = recorder.recv_from(&mut initial).await.unwrap();
    initial.truncate(len);
    initial
}

/// Above the bound a client has to prove its address: the answer to its first packet is a Retry, and not a handshake, which is three times as long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_are_validated_by_a_retry() {
    // The type of a packet with a long header. Source: RFC 9000 section 17.2.
    const RETRY: u8 = 3;
    for (bound, is_retry) in [(0, true), (1, false)] {
        let (serving, _) = server(|builder| builder.quic(ServerQuic::new().retry_above(bound))).await;
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(address(&serving)).await.unwrap();
        socket.send(&first_packet().await).await.unwrap();
        let mut answer = [0; 2_000];
        let len = tokio::time::timeout(PATIENCE, socket.recv(&mut answer)).await.unwrap().unwrap();
        let kind = (answer[0] & 0x30) >> 4;
        assert_eq!((kind == RETRY, len < 200), (is_retry, is_retry), "{kind} {len}");
        answers(&good(&serving)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_23_24_datagrams_that_are_no_handshake_change_nothing() {
    let (serving, _) = server(|builder| builder).await;
    let good = good(&serving);
    answers(&good).await;
    // To be maimed.
    let initial = first_packet().await;
    let len = initial.len();

    let attacker = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    attacker.connect(address(&serving)).await.unwrap();
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..2_000 {
        let mut datagram = initial.clone();
        match random.u8(..5) {
            // As it is, again and again; cut; with a bit turned; of another version; noise.
            0 => {}
            1 => datagram.truncate(random.usize(..len)),
            2 => datagram[random.usize(..len)] ^= 1 << random.u8(..8),
            3 => datagram[1..5].copy_from_slice(&random.u32(..).to_be_bytes()),
            _ => datagram = (0..random.usize(..1_500)).map(|_| random.u8(..)).collect(),
        }
        // A full queue of the socket is as good as a loss.
        let _lost = attacker.try_send(&datagram);
    }
    answers(&good).await;
    assert_eq!(serving.panics(), 0);
    serving.shutdown().await;
}

/// Row 26: handshakes that never go on. Above their bound newcomers prove their address first, which costs the server nothing, so an honest one gets in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_26_a_thousand_half_open_handshakes_hold_nobody_up() {
    let (serving, _) = server(|builder| builder.handshake_timeout("60s")).await;
    let before = good(&serving);
    answers(&before).await;
    // The server hears what clients send, and they hear nothing.
    let relay = Relay::in_front_of(address(&serving)).await;
    relay.set_deaf(true);
    let endpoint = bad_endpoint(ALPN);
    let mut half_open = Vec::new();
    for number in 0..1_000 {
        half_open.push(endpoint.connect(relay.address(), "localhost").unwrap());
        if number % 100 == 99 {
            answers(&good(&serving)).await;
        }
    }
    answers(&before).await;
    drop(half_open);
    serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_29_another_protocol_is_refused_by_either_side() {
    let (serving, _) = server(|builder| builder).await;
    let refused = bad_endpoint(b"h3").connect(address(&serving), "localhost").unwrap().await.unwrap_err();
    assert!(
        refused.to_string().contains("peer doesn't support any known protocol") || refused.to_string().contains("120"),
        "{refused}"
    );

    let (chain, key) = Authority::shared().sign(&["localhost", "127.0.0.1"]);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()],
            rustls::pki_types::PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
    let other = quinn::Endpoint::server(config, ([127, 0, 0, 1], 0).into()).unwrap();
    let target = format!("quic://{}", other.local_addr().unwrap());
    let answering = tokio::spawn(async move {
        while let Some(incoming) = other.accept().await {
            let _refused = incoming.await;
        }
    });
    let error = Channel::builder().tls(Authority::shared().client()).connect(&target).await.unwrap_err();
    assert!(error.message().contains("no ALPN `sinew/1`"), "{error}");
    answering.abort();
}

/// A client that shakes hands and never opens a lane, one whose lane says nothing, and one whose further streams do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_26_streams_have_their_time_too() {
    let (serving, _) = server(|builder| builder.handshake_timeout("200ms")).await;
    let no_lane = bad(&serving).await;
    gone(&no_lane).await;
    let silent = bad(&serving).await;
    let (mut lane, _answers) = silent.open_bi().await.unwrap();
    lane.write_all(&PREFACE[..1]).await.unwrap();
    gone(&silent).await;

    let chatty = bad(&serving).await;
    let (_lane, _answers) = greet(&chatty).await;
    let (mut further, mut answer) = chatty.open_bi().await.unwrap();
    further.write_all(&PREFACE[..1]).await.unwrap();
    let mut rest = [0; 1_024];
    let read_to_its_end = async { while let Ok(Some(_)) = answer.read(&mut rest).await {} };
    tokio::time::timeout(PATIENCE, read_to_its_end).await.expect("the stream ends");
    answers(&good(&serving)).await;
    serving.shutdown().await;
}

/// Rapid reset with a stream per call: it counts against the connection, not against each new stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_17_resets_of_streams_are_counted_over_the_connection() {
    let (serving, victim) = server(|builder| builder).await;
    let good = good(&serving);
    answers(&good).await;
    let attacker = bad(&serving).await;
    let (_lane, _answers) = greet(&attacker).await;
    let greeting = [PREFACE, &hello()].concat();
    let call = [&greeting[..], &open(1, "wait", &nothing(), true)].concat();
    let broken = [&greeting[..], &open(1, "wait", &nothing(), true), &[0xff; 32]].concat();
    let flood = async {
        for number in 0_u32.. {
            let Ok((mut send, mut receive)) = attacker.open_bi().await else {
                break;
            };
            // A cancelled call, one that is given up with another code, one whose client hangs up, one behind which nonsense comes, and none at all.
            let bytes = match number % 5 {
                0..3 => &call,
                3 => &broken,
                _ => &greeting,
            };
            if send.write_all(bytes).await.is_err() {
                break;
            }
            // The greeting of the server: its stream is served.
            let mut first = [0; 1];
            if receive.read_exact(&mut first).await.is_err() {
                break;
            }
            let _ended = match number % 5 {
                code @ (0 | 1) => send.reset(code.into()),
                _ => send.finish(),
            };
            let _ended = receive.stop(0_u32.into());
        }
    };
    tokio::time::timeout(PATIENCE, flood).await.expect("the server ends it");
    answers(&good).await;
    drop(attacker);
    let quiet = async {
        while victim.counts.live.load(Ordering::SeqCst) > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, quiet).await.expect("no handler is left");
    serving.shutdown().await;
}

/// Row 35: a first flight, which anybody could have recorded, with a call that must not run twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_35_early_calls_that_are_not_idempotent_are_refused() {
    let (serving, victim) = server(|builder| builder.quic(ServerQuic::new().zero_rtt())).await;
    let endpoint = bad_endpoint(ALPN);
    let relay = Relay::in_front_of(address(&serving)).await;
    // The session.
    let known = endpoint.connect(relay.address(), "localhost").unwrap().await.unwrap();
    let (_lane, mut greeting) = greet(&known).await;
    greeting.read_exact(&mut [0; 8]).await.unwrap();
    known.close(0_u32.into(), b"");
    // The first flight, and nothing behind it: this client never finishes its handshake.
    relay.set_deaf(true);
    let Ok((early, _handshake)) = endpoint.connect(relay.address(), "localhost").unwrap().into_0rtt() else {
        panic!("the session is known")
    };
    let (mut lane, _answers) = early.open_bi().await.unwrap();
    // Behind the call that is to be refused comes one that is not.
    let calls = [
        PREFACE,
        &hello(),
        &open(1, "wait", &nothing(), true),
        &open(2, "look", &nothing(), true),
    ]
    .concat();
    lane.write_all(&calls).await.unwrap();
    let looked = async {
        while victim.counts.looked.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looked).await.expect("idempotent calls run early");
    assert_eq!(victim.counts.began.load(Ordering::SeqCst), 0, "others do not");
    drop((early, endpoint));
    let channel = Channel::builder().tls(Authority::shared().client()).quic(ClientQuic::new().zero_rtt());
    answers(&TargetClient::from_channel(channel.lazy(&serving.target()).unwrap())).await;
    serving.shutdown().await;
}

/// Row 34: every fourth packet is lost, each way, in the handshake and after it; calls are answered all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_34_handshakes_and_calls_get_through_losses() {
    let (serving, _) = server(|builder| builder).await;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let relay = Relay::losing(address(&serving), move || random.u8(..4) == 0).await;
    let channel = Channel::builder()
        .tls(Authority::shared().client())
        .connect_timeout(PATIENCE)
        .wait_for_ready()
        .lazy(&relay.target())
        .unwrap();
    let client = TargetClient::from_channel(channel);
    for _ in 0..5 {
        answers(&client).await;
    }
}

/// A client that closes its lane and goes on calling on other streams would be a connection that nobody counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_its_lane_is_over() {
    let (serving, victim) = server(|builder| builder).await;
    let attacker = bad(&serving).await;
    let (mut lane, _answers) = greet(&attacker).await;
    let (mut further, mut answer) = attacker.open_bi().await.unwrap();
    let call = [PREFACE, &hello(), &open(1, "wait", &nothing(), true)].concat();
    further.write_all(&call).await.unwrap();
    answer.read_exact(&mut [0; 8]).await.unwrap();
    while victim.counts.live.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(serving.connections(), 1);
    lane.finish().unwrap();
    gone(&attacker).await;
    let left = async {
        while victim.counts.live.load(Ordering::SeqCst) > 0 || serving.connections() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, left).await.expect("nothing is left");
    serving.shutdown().await;
}

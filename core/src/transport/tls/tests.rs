//! Sessions over real sockets: what arrives, who is let in, and what a failure is called.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType, date_time_ymd,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{ClientTls, Dialling, ServerTls, TlsConfigError, TlsFault};
use crate::transport::ConnectError;
use crate::transport::error::HandshakeError;
use crate::transport::io::{ByteStream, SharedWrite};

struct Authority {
    params: CertificateParams,
    key: KeyPair,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self {
            params,
            key: KeyPair::generate().unwrap(),
        }
    }

    fn pem(&self) -> String {
        self.params.self_signed(&self.key).unwrap().pem()
    }

    fn sign(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
    }

    fn server(&self, names: &[&str]) -> ServerTls {
        let (chain, key) = self.sign(names, |_| {});
        ServerTls::from_pem(chain, key).unwrap()
    }

    fn client(&self) -> ClientTls {
        ClientTls::new().roots_pem(self.pem()).unwrap()
    }
}

type Ends = (Result<ByteStream, ConnectError>, Result<ByteStream, HandshakeError>);

async fn sockets() -> (TcpStream, SocketAddr, TcpStream, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (theirs, peer) = theirs.unwrap();
    (ours.unwrap(), address, theirs, peer)
}

/// A handshake between the two, the client calling `host`.
async fn meet(client: ClientTls, server: &ServerTls, host: &str) -> Ends {
    let (ours, address, theirs, peer) = sockets().await;
    let dialling = Dialling::new(host, Some(client));
    let acceptor = server.acceptor().unwrap();
    tokio::join!(dialling.shake_hands(ours, address), acceptor.shake_hands(theirs, peer))
}

fn fault(result: Result<ByteStream, ConnectError>) -> TlsFault {
    match result {
        Err(ConnectError::Tls { fault, .. }) => fault,
        other => panic!("no fault of TLS: {other:?}"),
    }
}

async fn read_all(mut stream: ByteStream, expected: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < expected {
        let read = stream.reader.read_buf(&mut bytes).await.unwrap();
        assert!(read > 0, "the stream ended after {} bytes", bytes.len());
    }
    bytes
}

async fn write_all(stream: &ByteStream, bytes: &[u8]) {
    let mut left = bytes;
    while !left.is_empty() {
        // Uneven pieces; after a blocked write the same bytes come again, as a connection does it.
        let (first, second) = left.split_at(left.len().min(7));
        match stream.writer.try_write_vectored(&[std::io::IoSlice::new(first), std::io::IoSlice::new(second)]) {
            Ok(written) => left = &left[written..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                std::future::poll_fn(|task| stream.writer.poll_write_ready(task)).await.unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn bytes_arrive_whole_and_the_end_is_seen() {
    let authority = Authority::new("roots");
    let (client, server) = meet(authority.client(), &authority.server(&["localhost"]), "localhost").await;
    let (client, server) = (client.unwrap(), server.unwrap());
    assert!(client.peer().starts_with("tls://127.0.0.1:") && server.peer().starts_with("tls://127.0.0.1:"));
    let sent: Arc<Vec<u8>> = Arc::new((0..3_000_000_u32).map(|at| (at % 251) as u8).collect());
    let reading = tokio::spawn(read_all(server, sent.len()));
    write_all(&client, &sent).await;
    assert!(reading.await.unwrap() == *sent);

    let (client, server) = meet(authority.client(), &authority.server(&["localhost"]), "localhost").await;
    let (client, mut server) = (client.unwrap(), server.unwrap());
    write_all(&client, b"last words").await;
    client.writer.shutdown();
    let mut read = Vec::new();
    server.reader.read_to_end(&mut read).await.unwrap();
    assert_eq!(read, b"last words");
}

#[tokio::test]
async fn a_blocked_write_is_done_when_its_bytes_are_gone() {
    let authority = Authority::new("roots");
    let (client, server) = meet(authority.client(), &authority.server(&["localhost"]), "localhost").await;
    let (client, server) = (client.unwrap(), server.unwrap());
    // Nobody reads: at some point the socket takes no more, and the write says so instead of keeping bytes that it called written.
    let piece = vec![7; 100_000];
    let mut written = 0;
    let blocked = loop {
        match client.writer.try_write_vectored(&[std::io::IoSlice::new(&piece)]) {
            Ok(some) => written += some,
            Err(error) => break error,
        }
        assert!(written < 64 << 20, "what nobody reads is bounded");
    };
    assert_eq!(blocked.kind(), std::io::ErrorKind::WouldBlock);
    // Once somebody does, all of it arrives, the blocked piece once.
    let reading = tokio::spawn(read_all(server, written + piece.len()));
    write_all(&client, &piece).await;
    assert_eq!(reading.await.unwrap().len(), written + piece.len());
}

#[tokio::test]
async fn failures_have_names() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let meet_fault = async |client, server: &ServerTls, host| fault(meet(client, server, host).await.0);
    assert_eq!(
        meet_fault(theirs.client(), &ours.server(&["localhost"]), "localhost").await,
        TlsFault::UnknownAuthority
    );
    assert_eq!(
        meet_fault(ours.client(), &ours.server(&["other.example"]), "localhost").await,
        TlsFault::WrongName
    );
    let (chain, key) = ours.sign(&["localhost"], |params| params.not_after = date_time_ymd(2020, 1, 1));
    assert_eq!(
        meet_fault(ours.client(), &ServerTls::from_pem(chain, key).unwrap(), "localhost").await,
        TlsFault::Expired
    );
    let (chain, key) = ours.sign(&["localhost"], |params| params.not_before = date_time_ymd(3000, 1, 1));
    assert_eq!(
        meet_fault(ours.client(), &ServerTls::from_pem(chain, key).unwrap(), "localhost").await,
        TlsFault::NotYetValid
    );
    // An authority that was made anew under its old name, an authority that serves, a certificate for clients alone.
    let again = Authority::new("ours");
    assert_eq!(
        meet_fault(again.client(), &ours.server(&["localhost"]), "localhost").await,
        TlsFault::UnknownAuthority
    );
    let own = (ours.pem(), ours.key.serialize_pem());
    let own = ServerTls::from_pem(own.0, own.1).unwrap();
    assert_eq!(
        meet_fault(ours.client(), &own, "localhost").await,
        TlsFault::AuthorityAsPeer
    );
    let (chain, key) = ours.sign(&["localhost"], |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    let purpose = ServerTls::from_pem(chain, key).unwrap();
    assert_eq!(
        meet_fault(ours.client(), &purpose, "localhost").await,
        TlsFault::WrongPurpose
    );
    // The name to check may differ from the name that is called.
    let renamed = ours.client().server_name("other.example").unwrap();
    assert!(meet(renamed, &ours.server(&["other.example"]), "127.0.0.1").await.0.is_ok());
}

#[tokio::test]
async fn a_client_certificate_is_asked_for_and_shown_to_handlers() {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let strict = servers.server(&["localhost"]).client_roots_pem(clients.pem()).unwrap();
    let (chain, key) = clients.sign(&["billing.internal"], |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names.push(SanType::URI("spiffe://shop/billing".try_into().unwrap()));
    });
    let known = servers.client().identity_pem(&chain, &key).unwrap();
    let (client, server) = meet(known, &strict, "localhost").await;
    let (client, server) = (client.unwrap(), server.unwrap());
    let identity = server.identity().unwrap();
    assert_eq!(identity.dns_names(), ["billing.internal"]);
    assert_eq!(identity.uris(), ["spiffe://shop/billing"]);
    assert_eq!(client.identity().unwrap().dns_names(), ["localhost"]);

    // Without one the server turns it away. The client learns of it with its first read, because its own half of the handshake was done.
    let (client, server) = meet(servers.client(), &strict, "localhost").await;
    assert!(server.unwrap_err().to_string().contains("lets in clients with a certificate only"));
    let mut buffer = Vec::new();
    let error = client.unwrap().reader.read_buf(&mut buffer).await.unwrap_err();
    assert!(error.to_string().contains("ClientTls::identity_pem"), "{error}");

    // One that somebody else signed is refused, too.
    let (chain, key) = servers.sign(&["billing.internal"], |_| {});
    let stranger = servers.client().identity_pem(chain, key).unwrap();
    let (client, server) = meet(stranger, &strict, "localhost").await;
    assert!(server.unwrap_err().to_string().contains("signed by nobody that this side trusts"));
    let error = client.unwrap().reader.read_buf(&mut buffer).await.unwrap_err();
    assert!(
        error.to_string().contains("does not accept this side's certificate"),
        "{error}"
    );

    assert!(matches!(
        servers.server(&["localhost"]).client_certificate_optional().acceptor(),
        Err(TlsConfigError::OptionalWithoutRoots)
    ));
    let lenient = strict.client_certificate_optional();
    let (client, server) = meet(servers.client(), &lenient, "localhost").await;
    assert!(client.is_ok() && server.unwrap().identity().is_none());
}

#[tokio::test]
async fn strangers_are_told_apart() {
    let authority = Authority::new("roots");
    let server = authority.server(&["localhost"]);
    // A client that speaks sinew in the clear.
    let (mut ours, _, theirs, peer) = sockets().await;
    ours.write_all(b"\xF5SINEW\x01\x00\x00\x00\x00\x00").await.unwrap();
    let error = server.acceptor().unwrap().shake_hands(theirs, peer).await.unwrap_err();
    assert!(
        error.to_string().contains("does not speak TLS; use tls:// on both sides"),
        "{error}"
    );
    let mut told = Vec::new();
    let _reset_or_end = ours.read_to_end(&mut told).await;
    assert!(
        told.is_empty() || told.starts_with(&[0x15, 0x03]),
        "an alert, if anything: {told:?}"
    );

    // A server that does.
    let (ours, address, mut theirs, _) = sockets().await;
    let dialling = Dialling::new("localhost", Some(authority.client()));
    let (result, written) = tokio::join!(
        dialling.shake_hands(ours, address),
        theirs.write_all(b"\xF5SINEW\x01\x00")
    );
    written.unwrap();
    assert_eq!(fault(result), TlsFault::NotTls);

    // One that hangs up.
    let (ours, address, theirs, _) = sockets().await;
    drop(theirs);
    assert_eq!(fault(dialling.shake_hands(ours, address).await), TlsFault::HungUp);
}

#[tokio::test]
async fn another_protocol_inside_tls_is_refused_on_both_sides() {
    let authority = Authority::new("roots");
    let provider = super::provider();
    let roots = Arc::new(super::roots("roots", authority.pem().as_bytes()).unwrap());
    for offered in [vec![b"h2".to_vec()], Vec::new()] {
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(Arc::clone(&roots))
            .with_no_client_auth();
        config.alpn_protocols = offered;
        let (ours, _, theirs, peer) = sockets().await;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let acceptor = authority.server(&["localhost"]).acceptor().unwrap();
        let name = "localhost".try_into().unwrap();
        let (_client, server) = tokio::join!(connector.connect(name, ours), acceptor.shake_hands(theirs, peer));
        let error = server.unwrap_err().to_string();
        assert!(error.contains("no ALPN `sinew/1`"), "{error}");
    }
    let (chain, key) = authority.sign(&["localhost"], |_| {});
    let certified = super::server::certified("", chain.as_bytes(), "", key.as_bytes()).unwrap();
    let resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    let (ours, address, theirs, _) = sockets().await;
    let dialling = Dialling::new("localhost", Some(authority.client()));
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let (client, _server) = tokio::join!(dialling.shake_hands(ours, address), acceptor.accept(theirs));
    assert_eq!(fault(client), TlsFault::NoAlpn);
}

#[test]
fn wrong_settings_say_what_to_give() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let ((chain, key), (_, other_key)) = (ours.sign(&["a"], |_| {}), theirs.sign(&["a"], |_| {}));
    let text = |error: TlsConfigError| error.to_string();
    assert!(matches!(
        ServerTls::from_pem(&chain, &other_key),
        Err(TlsConfigError::Mismatch)
    ));
    assert!(matches!(
        ClientTls::new().identity_pem(&chain, &other_key),
        Err(TlsConfigError::Mismatch)
    ));
    assert!(text(ServerTls::from_pem(&key, &key).unwrap_err()).contains("expected a block `BEGIN CERTIFICATE`"));
    assert!(text(ServerTls::from_pem(&chain, &chain).unwrap_err()).contains("expected a block `BEGIN PRIVATE KEY`"));
    assert!(
        text(ServerTls::from_pem("-----BEGIN CERTIFICATE-----\n%\n-----END CERTIFICATE-----\n", &key).unwrap_err())
            .contains("is not PEM")
    );
    assert!(
        text(ServerTls::from_pem_files("/nowhere/cert.pem", "/nowhere/key.pem").unwrap_err())
            .contains("/nowhere/cert.pem")
    );
    assert!(text(ClientTls::new().roots_pem("").unwrap_err()).contains("the root certificates"));
    assert!(matches!(
        ClientTls::new().server_name("not a name"),
        Err(TlsConfigError::Name { .. })
    ));
    let shown = format!(
        "{:?} {:?}",
        ServerTls::from_pem(&chain, &key).unwrap(),
        ClientTls::new().identity_pem(&chain, &key).unwrap()
    );
    assert!(!shown.contains("PRIVATE"), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn a_new_certificate_is_taken_up_and_a_bad_one_is_not() {
    let authority = Authority::new("roots");
    let folder = std::env::temp_dir().join(format!("sinew-tls-{}-reload", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (chain_path, key_path) = (folder.join("cert.pem"), folder.join("key.pem"));
    let put = |names: &[&str]| {
        let (chain, key) = authority.sign(names, |_| {});
        std::fs::write(&chain_path, chain).unwrap();
        std::fs::write(&key_path, key).unwrap();
    };
    put(&["first.example"]);
    let server = ServerTls::from_pem_files(&chain_path, &key_path).unwrap();
    assert!(!server.reload().unwrap(), "nothing changed");
    put(&["second.example"]);
    assert!(server.reload().unwrap());
    // The key of another certificate, then no file at all: the old one stays.
    std::fs::write(&key_path, authority.sign(&["x"], |_| {}).1).unwrap();
    assert!(matches!(server.reload(), Err(TlsConfigError::Mismatch)));
    assert!(
        matches!(server.reload(), Err(TlsConfigError::Mismatch)),
        "told again to whoever asks again"
    );
    std::fs::remove_file(&key_path).unwrap();
    assert!(matches!(server.reload(), Err(TlsConfigError::File { .. })));
    let shown = async || {
        let named = authority.client().server_name("second.example").unwrap();
        meet(named, &server, "localhost").await.0.is_ok()
    };
    assert!(shown().await, "the last good one is shown");
    // A handshake looks by itself once the pause is over.
    put(&["third.example"]);
    tokio::time::advance(super::server::RELOAD_PAUSE + Duration::from_millis(1)).await;
    tokio::time::resume();
    let third = authority.client().server_name("third.example").unwrap();
    assert!(meet(third, &server, "localhost").await.0.is_ok());
    std::fs::remove_dir_all(&folder).unwrap();
}

/// A server that sends session tickets for ever keeps its client busy no longer than it takes to notice: here by rustls, whose buffer fills with
/// handshake messages that never end.
#[tokio::test]
async fn records_that_carry_nothing_end_the_session() {
    let authority = Authority::new("roots");
    let (chain, key) = authority.sign(&["localhost"], |_| {});
    let certified = super::server::certified("", chain.as_bytes(), "", key.as_bytes()).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(super::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![super::ALPN.to_vec()];
    config.send_tls13_tickets = 20_000;
    let (ours, address, theirs, _) = sockets().await;
    let dialling = Dialling::new("localhost", Some(authority.client()));
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let bad = tokio::spawn(async move {
        let mut stream = acceptor.accept(theirs).await?;
        stream.flush().await
    });
    let mut client = dialling.shake_hands(ours, address).await.unwrap();
    let mut buffer = Vec::new();
    let error = client.reader.read_buf(&mut buffer).await.unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("carry nothing") || message.contains("buffer full"),
        "{message}"
    );
    bad.abort();
}

/// Every connection rests on certificates that were checked for it.
#[tokio::test]
async fn sessions_are_not_resumed() {
    let authority = Authority::new("roots");
    let acceptor = authority.server(&["localhost"]).acceptor().unwrap();
    let dialling = Dialling::new("localhost", Some(authority.client()));
    for _ in 0..2 {
        let (ours, address, theirs, _) = sockets().await;
        let accepting = tokio_rustls::TlsAcceptor::from(Arc::clone(&acceptor.config)).accept(theirs);
        let (client, server) = tokio::join!(dialling.shake_hands(ours, address), accepting);
        let mut server = server.unwrap();
        assert_eq!(server.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
        // What a ticket would come with is read before the next one.
        let mut client = client.unwrap();
        server.write_all(b"x").await.unwrap();
        server.flush().await.unwrap();
        assert_eq!(client.reader.read_u8().await.unwrap(), b'x');
    }
}

/// What arrived before the end is read before the end is told.
#[tokio::test]
async fn bytes_in_front_of_an_alert_are_read_first() {
    let authority = Authority::new("roots");
    let acceptor = authority.server(&["localhost"]).acceptor().unwrap();
    let (ours, address, theirs, _) = sockets().await;
    let dialling = Dialling::new("localhost", Some(authority.client()));
    let accepting = tokio_rustls::TlsAcceptor::from(Arc::clone(&acceptor.config)).accept(theirs);
    let (client, server) = tokio::join!(dialling.shake_hands(ours, address), accepting);
    let (mut socket, mut session) = server.unwrap().into_inner();
    let mut sealed = Vec::new();
    std::io::Write::write_all(&mut session.writer(), b"last words").unwrap();
    while session.wants_write() {
        session.write_tls(&mut sealed).unwrap();
    }
    // Behind them something that is no record.
    sealed.extend_from_slice(&[0xff; 32]);
    socket.write_all(&sealed).await.unwrap();
    let mut client = client.unwrap();
    let mut buffer = Vec::new();
    client.reader.read_buf(&mut buffer).await.unwrap();
    assert_eq!(buffer, b"last words");
    client.reader.read_buf(&mut buffer).await.unwrap_err();
}

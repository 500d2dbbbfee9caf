//! Sessions and sockets of clients, over real handshakes.

use std::net::SocketAddr;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::task::{JoinHandle, JoinSet};

use super::{ClientQuic, EarlyData, QuicDialler, QuicListener, ServerQuic};
use crate::mux::MuxConfig;
use crate::transport::io::ByteStream;
use crate::transport::tls::{ClientTls, Dialling, ServerTls};

/// An authority with the certificates that it signed.
struct Certificates {
    authority: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Certificates {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap();
        Self {
            authority,
            issuer: Issuer::new(params, key),
        }
    }

    fn sign(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn server(&self) -> ServerTls {
        let (chain, key) = self.sign();
        ServerTls::from_pem(chain, key).unwrap()
    }

    fn client(&self) -> ClientTls {
        ClientTls::new().roots_pem(self.authority.pem()).unwrap()
    }
}

/// Accepts for ever.
struct Server {
    at: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Server {
    fn start(tls: &ServerTls) -> Self {
        let limits = MuxConfig::default();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = QuicListener::bind(any, tls.acceptor().unwrap(), &ServerQuic::new(), &limits).unwrap();
        let at = listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move {
            let mut kept = JoinSet::new();
            while let Ok((_, handshake)) = listener.accept().await {
                kept.spawn(async {
                    if let Ok(stream) = handshake.finish().await {
                        // The client waits for this byte: by then it has its tickets.
                        write(&stream, b"!");
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        Self { at, accepting }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn write(stream: &ByteStream, bytes: &[u8]) {
    use crate::transport::io::SharedWrite;
    assert_eq!(
        stream.writer.try_write_vectored(&[std::io::IoSlice::new(bytes)]).unwrap(),
        bytes.len()
    );
}

/// Connects, and tells whether the server had to show its certificate.
async fn verifies(dialler: &QuicDialler, dialling: &Dialling, server: &Server) -> bool {
    let before = verified(dialling, server);
    let mut stream = dialler.connect(dialling, server.at, EarlyData::Forbidden).await.unwrap();
    write(&stream, b"?");
    tokio::io::AsyncReadExt::read_u8(&mut stream.reader).await.unwrap();
    verified(dialling, server) > before
}

fn verified(dialling: &Dialling, server: &Server) -> usize {
    dialling.prepared(server.at, "test").unwrap().quic(false).unwrap().verified()
}

fn dialler() -> QuicDialler {
    QuicDialler::new(&ClientQuic::new(), &MuxConfig::default())
}

#[tokio::test]
async fn a_channel_resumes_its_session() {
    let certificates = Certificates::new();
    let server = Server::start(&certificates.server());
    let (dialler, dialling) = (dialler(), Dialling::new("127.0.0.1", Some(certificates.client())));
    assert!(verifies(&dialler, &dialling, &server).await);
    for _ in 0..5 {
        assert!(!verifies(&dialler, &dialling, &server).await, "each brings new tickets");
    }
    // Another channel has nothing to resume.
    let other = Dialling::new("127.0.0.1", Some(certificates.client()));
    assert!(verifies(&dialler, &other, &server).await);
}

/// A session does not outlive the certificate that it was made with.
#[tokio::test]
async fn a_new_certificate_ends_all_sessions() {
    let certificates = Certificates::new();
    let folder = std::env::temp_dir().join(format!("sinew-quic-tickets-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (chain_file, key_file) = (folder.join("cert.pem"), folder.join("key.pem"));
    let put = || {
        let (chain, key) = certificates.sign();
        std::fs::write(&chain_file, chain).unwrap();
        std::fs::write(&key_file, key).unwrap();
    };
    put();
    let tls = ServerTls::from_pem_files(&chain_file, &key_file).unwrap();
    let server = Server::start(&tls);
    let (dialler, dialling) = (dialler(), Dialling::new("127.0.0.1", Some(certificates.client())));
    assert!(verifies(&dialler, &dialling, &server).await);
    assert!(!verifies(&dialler, &dialling, &server).await);
    put();
    let _is_new = tls.reload().unwrap();
    assert!(verifies(&dialler, &dialling, &server).await);
    assert!(!verifies(&dialler, &dialling, &server).await);
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Where clients show certificates, each connection checks them.
#[tokio::test]
async fn sessions_with_client_certificates_are_not_resumed() {
    let certificates = Certificates::new();
    let (chain, key) = certificates.sign();
    let tls = certificates.server().client_roots_pem(certificates.authority.pem()).unwrap();
    let server = Server::start(&tls);
    let shown = certificates.client().identity_pem(chain, key).unwrap();
    let (dialler, dialling) = (dialler(), Dialling::new("127.0.0.1", Some(shown)));
    for _ in 0..3 {
        assert!(verifies(&dialler, &dialling, &server).await);
    }
}

/// Connections of one runtime share a socket, which is closed with the last of them.
#[tokio::test]
async fn connections_share_a_socket() {
    let certificates = Certificates::new();
    let server = Server::start(&certificates.server());
    let (dialler, dialling) = (dialler(), Dialling::new("127.0.0.1", Some(certificates.client())));
    let connect = async || dialler.connect(&dialling, server.at, EarlyData::Forbidden).await.unwrap();
    let one = connect().await;
    let two = connect().await;
    let ours = || super::socket::open_sockets(tokio::runtime::Handle::current().id());
    assert_eq!(ours(), 1);
    drop(one);
    assert_eq!(ours(), 1);
    drop(two);
    assert_eq!(ours(), 0);
    connect().await;
}

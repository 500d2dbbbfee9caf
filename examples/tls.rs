//! TLS: a server with a certificate, a client that trusts its authority, and loopback, where neither needs any.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use sinew::{Channel, ClientTls, Server, ServerTls, Status, service};

/// Keeps secrets.
#[service]
pub trait Vault {
    /// Tells one.
    async fn tell(&self) -> Result<String, Status>;
}

struct Keeper;

impl Vault for Keeper {
    async fn tell(&self) -> Result<String, Status> {
        Ok("the butler did it".to_owned())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // On loopback a development certificate of this user takes the place of yours.
    let server = Server::builder().service(VaultServer::new(Keeper)).bind("tls://127.0.0.1:0").start().await?;
    let vault = VaultClient::connect(&server.target()).await?;
    println!("{} over {}", vault.tell().await?, server.target());

    // In production the files come from your authority: `ServerTls::from_pem_files("vault.pem", "vault.key")`.
    let (authority, chain, key) = certificates("vault.internal")?;
    let tls = ServerTls::from_pem(chain, key)?;
    let server = Server::builder()
        .service(VaultServer::new(Keeper))
        .tls(tls)
        .bind("tls://127.0.0.1:0")
        .start()
        .await?;

    let tls = ClientTls::new().roots_pem(authority)?;
    // The certificate is for a name; this call goes to an address.
    let channel = Channel::builder().tls(tls.clone().server_name("vault.internal")?).connect(&server.target()).await?;
    assert_eq!(VaultClient::from_channel(channel).tell().await?, "the butler did it");

    let refused = Channel::builder().tls(tls).connect(&server.target()).await.map(drop);
    let message = refused.map_err(|status| status.message().to_owned());
    println!("by another name: {message:?}");
    assert!(message.is_err_and(|message| message.contains("for other names than the one called")));
    Ok(())
}

/// An authority, and what it signed: what `openssl` or your platform makes for you.
fn certificates(name: &str) -> Result<(String, String, String), rcgen::Error> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate()?;
    let authority = params.self_signed(&authority_key)?.pem();
    let key = KeyPair::generate()?;
    let issuer = Issuer::from_params(&params, &authority_key);
    let chain = CertificateParams::new([name.to_owned()])?.signed_by(&key, &issuer)?.pem();
    Ok((authority, chain, key.serialize_pem()))
}

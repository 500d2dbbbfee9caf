//! Certificates that are renewed while the server runs: new handshakes get the new one, connections that are there live on.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use sinew::{Channel, ClientTls, Server, ServerTls, service};

/// Is there.
#[service]
pub trait Lamp {
    /// Whether it burns.
    async fn burns(&self) -> bool;
}

struct Oil;

impl Lamp for Oil {
    async fn burns(&self) -> bool {
        true
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::temp_dir().join(format!("sinew-example-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let (chain, key) = (folder.join("lamp.pem"), folder.join("lamp.key"));
    let authority = Authority::new()?;
    authority.write("lamp-2026.internal", &chain, &key)?;

    // The files are looked at before a handshake, once a second at most; `reload` looks now, for a signal handler or a test.
    let tls = ServerTls::from_pem_files(&chain, &key)?;
    let server = Server::builder()
        .service(LampServer::new(Oil))
        .tls(tls.clone())
        .bind("tls://127.0.0.1:0")
        .start()
        .await?;
    let trusting = ClientTls::new().roots_pem(authority.0.self_signed(&authority.1)?.pem())?;
    let connect = async |name: &str| {
        let tls = trusting.clone().server_name(name).map_err(Box::new)?;
        let channel = Channel::builder().tls(tls).connect(&server.target()).await?;
        Ok::<_, Box<dyn std::error::Error>>(LampClient::from_channel(channel))
    };
    let old = connect("lamp-2026.internal").await?;

    authority.write("lamp-2027.internal", &chain, &key)?;
    assert!(tls.reload()?, "there is a new one");
    let new = connect("lamp-2027.internal").await?;
    assert!(new.burns().await? && old.burns().await?);

    // A file that cannot be used changes nothing; the log tells once.
    std::fs::write(&key, "half a file")?;
    assert!(tls.reload().is_err());
    assert!(connect("lamp-2027.internal").await?.burns().await?);
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

/// What renews certificates: certbot, cert-manager, a cron job.
struct Authority(CertificateParams, KeyPair);

impl Authority {
    fn new() -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self(params, KeyPair::generate()?))
    }

    fn write(&self, name: &str, chain: &Path, key: &Path) -> Result<(), Box<dyn std::error::Error>> {
        let (params, own) = (CertificateParams::new([name.to_owned()])?, KeyPair::generate()?);
        let signed = params.signed_by(&own, &Issuer::from_params(&self.0, &self.1))?;
        std::fs::write(key, own.serialize_pem())?;
        std::fs::write(chain, signed.pem())?;
        Ok(())
    }
}

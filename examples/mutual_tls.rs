//! Mutual TLS: clients prove who they are with a certificate, and an interceptor decides what they may do.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use sinew::{Channel, ClientTls, Code, Cx, Next, Outcome, Server, ServerTls, Status, interceptor, service};

/// Pays salaries.
#[service]
pub trait Payroll {
    /// Billing alone may pay.
    async fn pay(&self) -> Result<(), Status>;
}

struct Office;

/// The names that the caller's certificate proves.
fn names(cx: &Cx) -> Vec<String> {
    let identity = cx.peer().and_then(|peer| peer.identity());
    identity.map(|identity| identity.dns_names().to_vec()).unwrap_or_default()
}

/// Lets in one name alone.
#[interceptor]
async fn only(cx: &mut Cx, next: impl Next, name: &'static str) -> Outcome {
    if !names(cx).iter().any(|proved| proved == name) {
        return Err(Status::permission_denied(format!("only {name} may do this")));
    }
    next.run(cx).await
}

#[service]
impl Payroll for Office {
    #[interceptor(only("billing.internal"))]
    async fn pay(&self) -> Result<(), Status> {
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // An authority, which your platform is for you, and certificates that it signed.
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate()?;
    let root = authority.self_signed(&authority_key)?.pem();
    let sign = |name: &str| -> Result<_, rcgen::Error> {
        let (params, key) = (CertificateParams::new([name.to_owned()])?, KeyPair::generate()?);
        let issuer = Issuer::from_params(&authority, &authority_key);
        Ok((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
    };

    let (chain, key) = sign("payroll.internal")?;
    let tls = ServerTls::from_pem(chain, key)?.client_roots_pem(&root)?;
    let server = Server::builder()
        .service(PayrollServer::new(Office))
        .tls(tls)
        .bind("tls://127.0.0.1:0")
        .start()
        .await?;

    let trusting = ClientTls::new().roots_pem(&root)?.server_name("payroll.internal")?;
    let named = |name| -> Result<PayrollClient, Box<dyn std::error::Error>> {
        let (chain, key) = sign(name)?;
        let tls = trusting.clone().identity_pem(chain, key)?;
        Ok(PayrollClient::from_channel(
            Channel::builder().tls(tls).lazy(&server.target())?,
        ))
    };
    named("billing.internal")?.pay().await?;
    let sales = named("sales.internal")?.pay().await;
    assert_eq!(sales.map_err(|status| status.code()), Err(Code::PermissionDenied));

    // Without a certificate there is no connection at all, and the error says what is missing.
    let nobody = Channel::builder().tls(trusting.clone()).connect(&server.target()).await.map(drop);
    assert!(nobody.is_err_and(|status| status.message().contains("ClientTls::identity_pem")));
    Ok(())
}

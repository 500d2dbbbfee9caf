//! Certificates for tests: an authority, and what it signs.

use std::sync::OnceLock;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use sinew::{ClientTls, ServerTls};

/// Signs certificates.
pub(crate) struct Authority {
    params: CertificateParams,
    key: KeyPair,
}

impl Authority {
    /// A new one, which nobody trusts yet.
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self {
            params,
            key: KeyPair::generate().unwrap(),
        }
    }

    /// The one that most tests share.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Authority> = OnceLock::new();
        SHARED.get_or_init(|| Self::new("shared by tests"))
    }

    /// Its own certificate.
    pub(crate) fn pem(&self) -> String {
        self.params.self_signed(&self.key).unwrap().pem()
    }

    /// A certificate for these names, and its key.
    pub(crate) fn sign(&self, names: &[&str]) -> (String, String) {
        self.sign_with(names, |_| {})
    }

    /// The same with other changes.
    pub(crate) fn sign_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
    }

    /// A server on loopback that this authority vouches for.
    pub(crate) fn server(&self) -> ServerTls {
        let (chain, key) = self.sign(&["localhost", "127.0.0.1", "::1"]);
        ServerTls::from_pem(chain, key).unwrap()
    }

    /// A client that trusts this authority alone.
    pub(crate) fn client(&self) -> ClientTls {
        ClientTls::new().roots_pem(self.pem()).unwrap()
    }
}

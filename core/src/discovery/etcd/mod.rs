//! Discovery by etcd: instances under leases, lists that are watched.
//!
//! An instance is the key `{prefix}/v1/svc/{service}/{instance}`, where the instance is the id of one run, so that a successor at the same address has a
//! key of its own and nobody can delete it by mistake. Its value is a record (`record.rs`), its lease is kept by the instance itself. Clients that share
//! endpoints by their places are at `{prefix}/v1/clients/{service}/{client}`, the same way.
//!
//! Both sides go on for ever, whatever happens to etcd: what they last knew stays, each failure is followed by another attempt at another member of the
//! cluster, and a store that was wiped, restored or compacted is recognized by its id and its revisions.
//!
//! Source: etcd v3 API guarantees; compaction, progress and leases as etcd 3.4 behaves.

pub(crate) mod mirror;
mod registrar;
mod resolver;
mod session;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::aperture::Aperture;
use crate::time::IntoDuration;
use crate::transport::address::is_loopback;

pub use resolver::EtcdResolver;

/// Time without a sign of life after which an instance is taken off the list. Short enough that calls are not lost to a dead instance for long, long enough
/// for a pause of garbage or disk, and for a change of etcd's leader.
const LEASE_TTL_DEFAULT: Duration = Duration::from_secs(10);
/// What etcd takes at least, with its defaults.
const LEASE_TTL_MIN: Duration = Duration::from_secs(2);
/// Where keys begin.
const PREFIX_DEFAULT: &str = "/sinew";
/// The port of a member that names none.
const PORT_DEFAULT: u16 = 2379;

/// An etcd cluster: finds services there, and registers servers.
///
/// # Examples
/// ```no_run
/// # mod sinew { pub use sinew_core::client::Channel; pub use sinew_core::discovery::Etcd; }
/// use sinew::{Channel, Etcd};
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let authority = std::fs::read("etcd-authority.pem")?;
/// let etcd = Etcd::new(["10.0.0.1:2379", "10.0.0.2:2379"])?.prefix("/prod")?;
/// let etcd = etcd.tls_roots_pem(authority).credentials("billing", "secret");
/// let channel = Channel::builder().resolver(etcd.resolver("shop.Orders")).connect("shop.Orders").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Etcd {
    pub(crate) config: Arc<Config>,
}

#[derive(Clone)]
pub(crate) struct Config {
    members: Vec<Member>,
    prefix: String,
    credentials: Option<(String, String)>,
    tls: Option<etcd_client::TlsOptions>,
    lease_ttl: Duration,
    /// What is entered, and found.
    directory: Directory,
}

/// What a registry has entries of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Directory {
    Services,
    Clients,
}

/// Where one member of the cluster is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    host: String,
    port: u16,
}

/// A setting that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct EtcdError {
    message: String,
}

fn wrong(message: impl Into<String>) -> EtcdError {
    EtcdError {
        message: message.into(),
    }
}

impl Etcd {
    /// The cluster with these members, as `host:port` or `host` (port 2379). All of them, or as many as are known: each is asked when another one fails.
    ///
    /// # Errors
    /// [`EtcdError`] if there is none, or one is no host and port.
    pub fn new<M: AsRef<str>>(members: impl IntoIterator<Item = M>) -> Result<Self, EtcdError> {
        let members: Result<Vec<Member>, _> =
            members.into_iter().map(|member| Member::parse(member.as_ref())).collect();
        let members = members?;
        if members.is_empty() {
            return Err(wrong("etcd has no member; name at least one as host:port"));
        }
        Ok(Self {
            config: Arc::new(Config {
                members,
                prefix: PREFIX_DEFAULT.to_owned(),
                credentials: None,
                tls: None,
                lease_ttl: LEASE_TTL_DEFAULT,
                directory: Directory::Services,
            }),
        })
    }

    fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }

    /// Sets where keys begin (default `/sinew`): several systems share a cluster by it.
    ///
    /// # Errors
    /// [`EtcdError`] unless it begins with `/` and does not end with it.
    pub fn prefix(self, prefix: impl Into<String>) -> Result<Self, EtcdError> {
        let prefix = prefix.into();
        if !prefix.starts_with('/') || prefix.ends_with('/') {
            return Err(wrong(format!(
                "the prefix {prefix:?} must begin with / and not end with it, as in \"/prod\""
            )));
        }
        Ok(self.with(|config| config.prefix = prefix))
    }

    /// Sets the user of etcd; tokens that expire are renewed. Beyond loopback this needs TLS.
    #[must_use]
    pub fn credentials(self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.with(|config| config.credentials = Some((user.into(), password.into())))
    }

    /// Speaks TLS, and trusts the authorities in `pem`.
    #[must_use]
    pub fn tls_roots_pem(self, pem: impl AsRef<[u8]>) -> Self {
        self.with(|config| {
            let tls = config.tls.take().unwrap_or_default();
            config.tls = Some(tls.ca_certificate(etcd_client::Certificate::from_pem(pem)));
        })
    }

    /// Speaks TLS, and trusts the authorities that the system trusts; so do `etcds://` targets.
    #[must_use]
    pub fn tls(self) -> Self {
        self.with(|config| config.tls = Some(system_trust()))
    }

    /// Speaks TLS, and shows a certificate; together with [`tls_roots_pem`](Self::tls_roots_pem) or after [`tls`](Self::tls), which say whom to trust.
    #[must_use]
    pub fn tls_identity_pem(self, chain: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        self.with(|config| {
            let tls = config.tls.take().unwrap_or_default();
            config.tls = Some(tls.identity(etcd_client::Identity::from_pem(chain, key)));
        })
    }

    /// Sets the time without a sign of life after which an instance is taken off the list (default 10 s, 2 s at least, at most an hour). A shorter one costs
    /// etcd more: an instance writes three times in it.
    ///
    /// # Errors
    /// [`EtcdError`] if it is out of range.
    pub fn lease_ttl(self, ttl: impl IntoDuration) -> Result<Self, EtcdError> {
        let ttl = ttl.into_duration().map_err(|error| wrong(format!("lease_ttl: {error}")))?;
        if !(LEASE_TTL_MIN..=Duration::from_hours(1)).contains(&ttl) {
            return Err(wrong(format!("lease_ttl is {ttl:?}; it must be 2 s to 1 h")));
        }
        Ok(self.with(|config| config.lease_ttl = ttl))
    }

    /// Finds the endpoints of `service`.
    #[must_use]
    pub fn resolver(&self, service: impl Into<String>) -> EtcdResolver {
        EtcdResolver::new(Arc::clone(&self.config), service.into())
    }

    /// Enters the clients of `service` as well, each with a lease of its own, at `{prefix}/v1/clients/{service}/`; for
    /// [`ChannelBuilder::aperture`](crate::client::ChannelBuilder::aperture).
    #[must_use]
    pub fn aperture(&self, service: impl Into<String>) -> Aperture {
        let (clients, service) = (
            self.clone().with(|config| config.directory = Directory::Clients),
            service.into(),
        );
        let resolver = clients.resolver(service.clone());
        Aperture::new(service, clients, resolver)
    }

    /// The cluster and the service of a target `etcd://host:port,host:port/prefix/shop.Orders`; the prefix may be left out.
    pub(crate) fn parse_target(text: &str, is_encrypted: bool, rest: &str) -> Result<(Self, String), EtcdError> {
        let (members, path) = rest.split_once('/').unwrap_or((rest, ""));
        if members.contains('@') {
            return Err(wrong(
                "a target holds no credentials, since targets are logged; set them by `Etcd::credentials`",
            ));
        }
        let (prefix, service) = match path.rsplit_once('/') {
            Some((prefix, service)) => (format!("/{prefix}"), service),
            None => (PREFIX_DEFAULT.to_owned(), path),
        };
        if service.is_empty() {
            return Err(wrong(format!(
                "{text:?} names no service; expected etcd://host:port,host:port/prefix/shop.Orders"
            )));
        }
        let etcd = Self::new(members.split(',').filter(|member| !member.is_empty()))?.prefix(prefix)?;
        let etcd = etcd.with(|config| config.tls = is_encrypted.then(system_trust));
        Ok((etcd, service.to_owned()))
    }
}

fn system_trust() -> etcd_client::TlsOptions {
    etcd_client::TlsOptions::new().with_enabled_roots()
}

impl Member {
    fn parse(text: &str) -> Result<Self, EtcdError> {
        let bad = || wrong(format!("{text:?} is no member of etcd; expected host:port"));
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.ends_with(':') && (!host.contains(':') || host.ends_with(']')) => {
                (host, port.parse().map_err(|_| bad())?)
            }
            _ => (text, PORT_DEFAULT),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() || host.contains(['/', '@', ' ']) {
            return Err(bad());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }

    /// As the client of etcd wants it.
    fn url(&self, is_encrypted: bool) -> String {
        let scheme = if is_encrypted { "https" } else { "http" };
        match self.host.contains(':') {
            true => format!("{scheme}://[{}]:{}", self.host, self.port),
            false => format!("{scheme}://{}:{}", self.host, self.port),
        }
    }

    fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(is_loopback)
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Config {
    /// Where the keys of a service begin; ends with `/`, so that one service's name may begin another's.
    fn service_prefix(&self, service: &str) -> String {
        let directory = match self.directory {
            Directory::Services => "svc",
            Directory::Clients => "clients",
        };
        format!("{}/v1/{directory}/{service}/", self.prefix)
    }
}

impl Config {
    /// Where the configuration of a service is.
    pub(crate) fn config_key(&self, service: &str) -> String {
        format!("{}/v1/config/{service}", self.prefix)
    }
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither password nor key.
        f.debug_struct("Etcd")
            .field("members", &self.config.members)
            .field("prefix", &self.config.prefix)
            .field("user", &self.config.credentials.as_ref().map(|(user, _)| user))
            .field("tls", &self.config.tls.is_some())
            .field("lease_ttl", &self.config.lease_ttl)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::Etcd;

    #[test]
    fn targets_name_cluster_prefix_and_service() {
        let (etcd, service) = Etcd::parse_target("", false, "a:1,b,[::1]:3/prod/eu/shop.Orders").unwrap();
        let members: Vec<String> = etcd.config.members.iter().map(ToString::to_string).collect();
        assert_eq!(members, ["a:1", "b:2379", "[::1]:3"]);
        assert_eq!(etcd.config.service_prefix(&service), "/prod/eu/v1/svc/shop.Orders/");
        assert!(etcd.config.tls.is_none());
        let (etcd, service) = Etcd::parse_target("", true, "a/shop.Orders").unwrap();
        assert_eq!(etcd.config.service_prefix(&service), "/sinew/v1/svc/shop.Orders/");
        assert_eq!(etcd.config.members[0].url(true), "https://a:2379");
        assert!(etcd.config.tls.is_some());
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (rest, told) in [
            ("a:1", "names no service"),
            ("a:1/", "names no service"),
            ("/shop.Orders", "no member"),
            ("a:x/shop.Orders", "expected host:port"),
            ("root:secret@a:1/shop.Orders", "holds no credentials"),
            ("a//shop.Orders", "must begin with /"),
        ] {
            let error = Etcd::parse_target("etcd://..", false, rest).unwrap_err();
            assert!(error.to_string().contains(told), "{rest}: {error}");
            assert!(!error.to_string().contains("secret"));
        }
        let etcd = Etcd::new(["a"]).unwrap();
        for (ttl, fits) in [
            ("1999ms", false),
            ("2s", true),
            ("1h", true),
            ("3601s", false),
            ("soon", false),
        ] {
            assert_eq!(etcd.clone().lease_ttl(ttl).is_ok(), fits, "{ttl}");
        }
        let shown = format!("{:?}", etcd.credentials("root", "secret"));
        assert!(shown.contains("root") && !shown.contains("secret"), "{shown}");
    }
}

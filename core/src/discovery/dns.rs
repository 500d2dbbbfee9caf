//! Endpoints by name in DNS: `dns:///orders.internal:7000`, `dns:///tls://_orders._tcp.internal`.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{RData, Record};
use tokio::task::JoinSet;

use super::endpoint::Endpoint;
use super::resolver::{Publisher, ResolveError, Resolver};
use crate::transport::Address;
use crate::transport::error::AddressError;

/// A record is asked for again after its time to live, but not sooner than this: one of zero would make a storm of every channel.
const TTL_MIN: Duration = Duration::from_secs(5);
/// And not later: however long a record may be kept, somebody may have to get rid of it.
const TTL_MAX: Duration = Duration::from_mins(5);
/// How long to wait after a failure, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Time that a server has to answer; the next one is asked then, and the first one again.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
/// Targets of an SRV record that are looked up; further ones are left out, by their weight.
const TARGETS_MAX: usize = 256;

/// Finds endpoints in DNS, and looks again when records have had their time (5 s to 5 min), or after 5 s if nobody can be reached.
///
/// - `host:port`, or another address as `tls://host:port`: every A and AAAA record of the host is an endpoint. Where it has one of each, they are
///   taken for the two addresses of one; several hosts that have both under one name count twice, so use an SRV record for them.
/// - `_service._proto.domain`, with `tls://` or another scheme before it where it is not TCP: the targets of the SRV record are the endpoints, those of the lowest
///   priority alone, with their weights.
///
/// A name that does not exist, an answer without records, and a server that does not answer, be it for one family of addresses, are failures, and the last list stands. What a list does not have any
/// more is gone: names have no leases.
///
/// # Examples
/// ```
/// # mod sinew { pub use sinew_core::{client::Channel, discovery::DnsResolver}; }
/// use sinew::{Channel, DnsResolver};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // As `dns:///tls://orders.internal:7000`, at another server than those of the system:
/// let resolver = DnsResolver::new("tls://orders.internal:7000")?.server("10.0.0.53:53".parse()?);
/// let channel = Channel::builder().resolver(resolver).lazy("orders.internal")?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct DnsResolver {
    question: Question,
    server: Option<SocketAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Question {
    /// The addresses of a host, and how to reach them.
    Host { scheme: String, host: String, port: u16 },
    /// The targets of a service.
    Service { scheme: String, name: String },
}

impl DnsResolver {
    /// The endpoints behind a name.
    ///
    /// # Errors
    /// [`AddressError`] if it is neither a host and a port nor the name of an SRV record.
    pub fn new(name: &str) -> Result<Self, AddressError> {
        let (scheme, rest) = name.split_once("://").unwrap_or(("tcp", name));
        let question = if rest.starts_with('_') {
            // Whether the scheme is one that takes a port.
            endpoint_address(scheme, "host", 1)?;
            Question::Service {
                scheme: scheme.to_owned(),
                name: rest.to_owned(),
            }
        } else {
            match format!("{scheme}://{rest}").parse()? {
                Address::Tcp { host, port, .. }
                | Address::Tls { host, port }
                | Address::Quic { host, port }
                | Address::QuicTcp { host, port } => Question::Host {
                    scheme: scheme.to_owned(),
                    host,
                    port,
                },
                Address::Unix { .. } | Address::Mem { .. } => {
                    return Err(AddressError::Port { text: name.to_owned() });
                }
            }
        };
        Ok(Self { question, server: None })
    }

    /// Asks this server, in place of those that the system is configured with.
    #[must_use]
    pub fn server(mut self, server: SocketAddr) -> Self {
        self.server = Some(server);
        self
    }

    /// What servers have to prove to be: the host, or the domain of the service.
    pub(crate) fn identity(&self) -> &str {
        match &self.question {
            Question::Host { host, .. } => host.trim_end_matches('.'),
            Question::Service { name, .. } => {
                let domain = name.splitn(3, '.').nth(2).unwrap_or(name);
                domain.trim_end_matches('.')
            }
        }
    }

    fn client(&self) -> Result<TokioResolver, NetError> {
        let mut builder = match self.server {
            None => TokioResolver::builder_tokio()?,
            Some(server) => {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                    connection.port = server.port();
                    connection
                });
                let server = NameServerConfig::new(server.ip(), true, connections.into());
                let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
        };
        let options = builder.options_mut();
        options.timeout = QUERY_TIMEOUT;
        // What is asked for is to be new.
        options.cache_size = 0;
        builder.build()
    }

    async fn ask(&self, client: &TokioResolver) -> Result<Answer, ResolveError> {
        match &self.question {
            Question::Host { scheme, host, port } => {
                let (found, ttl) = addresses(client, host).await.map_err(|error| failed(host, error))?;
                let to = |ip: &IpAddr| endpoint_address(scheme, &ip.to_string(), *port);
                let found: Result<Vec<Address>, _> = found.iter().map(to).collect();
                let found = found.map_err(|error| ResolveError::new(error.to_string()))?;
                let endpoints = match &found[..] {
                    [one, other] if one.host_ip().map(|ip| ip.is_ipv4()) != other.host_ip().map(|ip| ip.is_ipv4()) => {
                        vec![Endpoint::with_addresses(found)]
                    }
                    _ => found.into_iter().map(Endpoint::new).collect(),
                };
                Ok(Answer {
                    endpoints,
                    ttl,
                    failure: None,
                })
            }
            Question::Service { scheme, name } => service(client, scheme, name).await,
        }
    }
}

impl Resolver for DnsResolver {
    fn watch(&self, publisher: Publisher) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            let (mut retry, mut has_published) = (RETRY.0, false);
            loop {
                // Made anew each time: the system's configuration may have changed.
                let answer = match self.client() {
                    Ok(client) => Box::pin(self.ask(&client)).await,
                    Err(error) => Err(ResolveError::new("DNS cannot be asked").with_source(error)),
                };
                let answer = match answer {
                    // What is not known for now must not shorten a list; it is better than none.
                    Ok(Answer {
                        failure: Some(error), ..
                    }) if has_published => Err(error),
                    answer => answer,
                };
                let pause = match answer {
                    Ok(answer) => {
                        has_published |= !answer.endpoints.is_empty();
                        publisher.publish(answer.endpoints);
                        retry = RETRY.0;
                        match answer.failure {
                            None => answer.ttl.clamp(TTL_MIN, TTL_MAX),
                            Some(error) => {
                                publisher.fail(error);
                                TTL_MIN
                            }
                        }
                    }
                    Err(error) => {
                        publisher.fail(error);
                        let now = retry;
                        retry = (retry * 2).min(RETRY.1);
                        now
                    }
                };
                // Clients that started together do not ask together for ever.
                let pause = pause.mul_f64(1.0 + 0.1 * fastrand::f64());
                let wanted = async {
                    tokio::time::sleep(TTL_MIN).await;
                    publisher.wanted().await;
                };
                // Both are cancel safe: a wish is kept.
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = wanted => {}
                }
            }
        })
    }

    fn removal_window(&self) -> Option<Duration> {
        None
    }
}

struct Answer {
    endpoints: Vec<Endpoint>,
    ttl: Duration,
    /// What was not known of a part of it.
    failure: Option<ResolveError>,
}

/// The addresses of a host in their order, without repetition, and how long they hold. What one family cannot be asked for, the other does not make up for:
/// half of an answer would look like a loss of the rest.
async fn addresses(client: &TokioResolver, host: &str) -> Result<(Vec<IpAddr>, Duration), NetError> {
    if let Ok(ip) = host.parse() {
        return Ok((vec![ip], TTL_MAX));
    }
    let (four, six) = tokio::join!(client.ipv4_lookup(host), client.ipv6_lookup(host));
    let (mut found, mut holds, mut none) = (Vec::new(), TTL_MAX, None);
    for answer in [four, six] {
        match answer {
            Ok(answer) => {
                let records = answer.answers().iter();
                found.extend(records.filter_map(|record| record.data.ip_addr()));
                holds = holds.min(ttl(answer.answers()));
            }
            Err(error @ NetError::Dns(DnsError::NoRecordsFound(_))) => none = Some(error),
            Err(error) => return Err(error),
        }
    }
    if let Some(none) = none.filter(|_| found.is_empty()) {
        return Err(none);
    }
    // Servers turn the order round with every answer, which is no other list.
    found.sort_unstable();
    found.dedup();
    Ok((found, holds))
}

fn ttl(records: &[Record]) -> Duration {
    let least = records.iter().map(|record| record.ttl).min();
    Duration::from_secs(least.unwrap_or_default().into())
}

async fn service(client: &TokioResolver, scheme: &str, name: &str) -> Result<Answer, ResolveError> {
    let found = client.srv_lookup(name).await.map_err(|error| failed(name, error))?;
    let mut ttl = ttl(found.answers());
    let mut targets = Vec::new();
    for record in found.answers() {
        if let RData::SRV(srv) = &record.data {
            targets.push((srv.priority, srv.weight, srv.target.to_ascii(), srv.port));
        }
    }
    let first = targets.iter().map(|(priority, ..)| *priority).min();
    targets.retain(|(priority, _, target, _)| Some(*priority) == first && target != ".");
    targets.sort_by_key(|(_, weight, ..)| std::cmp::Reverse(*weight));
    targets.truncate(TARGETS_MAX);
    let is_weighted = targets.iter().any(|(_, weight, ..)| *weight > 0);
    let mut lookups = JoinSet::new();
    for (_, weight, target, port) in targets {
        let client = client.clone();
        lookups.spawn(async move { (addresses(&client, &target).await, weight, target, port) });
    }
    let (mut endpoints, mut failure) = (BTreeMap::new(), None);
    while let Some(looked_up) = lookups.join_next().await {
        let (found, weight, target, port) =
            looked_up.map_err(|error| ResolveError::new("DNS cannot be asked").with_source(error))?;
        let (found, holds) = match found {
            Ok(found) => found,
            // A target that is none is left out.
            Err(NetError::Dns(DnsError::NoRecordsFound(_))) => continue,
            Err(error) => {
                failure = Some(failed(&target, error));
                continue;
            }
        };
        ttl = ttl.min(holds);
        let host = target.trim_end_matches('.');
        let all: Result<Vec<Address>, _> =
            found.iter().map(|ip| endpoint_address(scheme, &ip.to_string(), port)).collect();
        let all = all.map_err(|error| ResolveError::new(error.to_string()))?;
        let endpoint = Endpoint::with_addresses(all).with_name(format!("{host}:{port}"));
        let weight = if is_weighted {
            u32::from(weight.max(1))
        } else {
            Endpoint::WEIGHT_DEFAULT
        };
        endpoints.insert(endpoint.name().to_owned(), endpoint.with_weight(weight));
    }
    if endpoints.is_empty() {
        let none = || ResolveError::new(format!("no target of {name} has an address in DNS"));
        return Err(failure.unwrap_or_else(none));
    }
    Ok(Answer {
        endpoints: endpoints.into_values().collect(),
        ttl,
        failure,
    })
}

fn endpoint_address(scheme: &str, host: &str, port: u16) -> Result<Address, AddressError> {
    match host.contains(':') {
        true => format!("{scheme}://[{host}]:{port}").parse(),
        false => format!("{scheme}://{host}:{port}").parse(),
    }
}

fn failed(name: &str, error: NetError) -> ResolveError {
    let name = name.trim_end_matches('.');
    match error {
        NetError::Dns(DnsError::NoRecordsFound(_)) => ResolveError::new(format!("{name} is not in DNS")),
        error => ResolveError::new(format!("{name} cannot be looked up in DNS")).with_source(error),
    }
}

#[cfg(test)]
mod tests {
    use super::{DnsResolver, Question};

    #[test]
    fn names_say_what_is_asked_for() {
        let host = |scheme: &str, host: &str, port| Question::Host {
            scheme: scheme.to_owned(),
            host: host.to_owned(),
            port,
        };
        let service = |scheme: &str, name: &str| Question::Service {
            scheme: scheme.to_owned(),
            name: name.to_owned(),
        };
        for (name, question, identity) in [
            (
                "orders.internal:7000",
                host("tcp", "orders.internal", 7000),
                "orders.internal",
            ),
            (
                "tls://orders.internal.:7000",
                host("tls", "orders.internal.", 7000),
                "orders.internal",
            ),
            (
                "_orders._tcp.shop.local",
                service("tcp", "_orders._tcp.shop.local"),
                "shop.local",
            ),
            (
                "tls://_orders._tcp.shop.local.",
                service("tls", "_orders._tcp.shop.local."),
                "shop.local",
            ),
        ] {
            let resolver = DnsResolver::new(name).unwrap();
            assert_eq!((&resolver.question, resolver.identity()), (&question, identity));
        }
        for name in [
            "",
            "orders.internal",
            "orders:x",
            "mem:here",
            "ftp://_orders._tcp.local",
            "unix:/x",
        ] {
            assert!(DnsResolver::new(name).is_err(), "{name}");
        }
    }
}

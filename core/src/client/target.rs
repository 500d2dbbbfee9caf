//! Targets as users write them: one address, or a way to find the endpoints of a service.

use std::sync::Arc;

use crate::config::ConfigSource;
use crate::discovery::{Endpoint, FileResolver, FixedList, MemRegistry, Resolver};
use crate::status::{HandlerRan, Status};
use crate::transport::Address;

/// What a target's text says.
pub(super) enum Target {
    /// One address.
    Address(Address),
    /// A service whose endpoints have to be found.
    Service(Service),
}

/// A service whose endpoints have to be found.
pub(super) struct Service {
    pub(super) resolver: Arc<dyn Resolver>,
    /// What servers must prove to be; `None` where the target itself names the hosts.
    pub(super) identity: Option<String>,
    /// The service as servers call it, if the target tells.
    pub(super) name: Option<String>,
    /// Where its configuration is, if the target tells.
    pub(super) config: Option<Arc<dyn ConfigSource>>,
    /// The target allows clear text beyond the machine.
    pub(super) dangerous_plaintext: bool,
}

impl Service {
    /// Of which the target tells nothing else.
    pub(super) fn found_by(resolver: impl Resolver) -> Self {
        Self {
            resolver: Arc::new(resolver),
            identity: None,
            name: None,
            config: None,
            dangerous_plaintext: false,
        }
    }
}

impl Target {
    /// # Errors
    /// INVALID_ARGUMENT tells what is wrong with the text.
    pub(super) fn parse(text: &str) -> Result<Self, Status> {
        let etcd = text.strip_prefix("etcd://").map(|rest| (rest, false));
        if let Some((rest, is_encrypted)) = etcd.or_else(|| text.strip_prefix("etcds://").map(|rest| (rest, true))) {
            return in_etcd(text, is_encrypted, rest).map(Self::Service);
        }
        if let Some(rest) = text.strip_prefix("dns://") {
            return in_dns(text, rest).map(Self::Service);
        }
        let Some((scheme, rest)) = text.split_once(":///") else {
            return text.parse().map(Self::Address).map_err(|error| wrong(&error));
        };
        let (path, dangerous_plaintext) = match rest.split_once('?') {
            None => (rest, false),
            Some((path, "dangerous_plaintext")) => (path, true),
            Some((_, option)) => {
                return Err(wrong(&format_args!(
                    "unknown option {option:?} in {text:?}; the only one is `?dangerous_plaintext`"
                )));
            }
        };
        let service = match scheme {
            "static" => Service::found_by(fixed(text, path)?),
            "mem" => Service {
                identity: Some(path.to_owned()),
                name: Some(path.to_owned()),
                ..Service::found_by(MemRegistry::shared().resolver(named(text, path)?))
            },
            "file" => Service::found_by(FileResolver::new(in_file(text, path)?)),
            // A path of three slashes.
            "unix" => return text.parse().map(Self::Address).map_err(|error| wrong(&error)),
            _ => {
                return Err(wrong(&format_args!(
                    "unknown scheme in {text:?}; a service is found by static:///host:port,host:port, file:///path, mem:///service, dns:///host:port or etcd://host:port/service"
                )));
            }
        };
        Ok(Self::Service(Service {
            dangerous_plaintext,
            ..service
        }))
    }
}

/// `dns:///host:port`, or `dns://server/host:port`.
#[cfg(feature = "dns")]
fn in_dns(text: &str, rest: &str) -> Result<Service, Status> {
    let (rest, dangerous_plaintext) = plaintext_of(rest);
    let (server, name) = rest.split_once('/').unwrap_or((rest, ""));
    let wrong = |error: &dyn std::fmt::Display| {
        wrong(&format_args!(
            "{text:?}: {error}; expected dns:///host:port or dns:///_service._proto.domain"
        ))
    };
    let mut resolver = crate::discovery::DnsResolver::new(name).map_err(|error| wrong(&error))?;
    if !server.is_empty() {
        let address = server.parse().or_else(|_| server.parse().map(|ip| std::net::SocketAddr::new(ip, 53)));
        resolver = resolver
            .server(address.map_err(|_| wrong(&"the server is given by its number, as in dns://10.0.0.53/.."))?);
    }
    Ok(Service {
        identity: Some(resolver.identity().to_owned()),
        dangerous_plaintext,
        ..Service::found_by(resolver)
    })
}

#[cfg(not(feature = "dns"))]
fn in_dns(text: &str, _rest: &str) -> Result<Service, Status> {
    Err(wrong(&format_args!(
        "{text:?} needs sinew's feature `dns`, which this build has not"
    )))
}

/// What stands before an option at the end, and whether that allows clear text.
#[cfg(any(feature = "dns", feature = "etcd"))]
fn plaintext_of(rest: &str) -> (&str, bool) {
    match rest.strip_suffix("?dangerous_plaintext") {
        Some(rest) => (rest, true),
        None => (rest, false),
    }
}

#[cfg(feature = "etcd")]
fn in_etcd(text: &str, is_encrypted: bool, rest: &str) -> Result<Service, Status> {
    let (rest, dangerous_plaintext) = plaintext_of(rest);
    let (etcd, service) =
        crate::discovery::Etcd::parse_target(text, is_encrypted, rest).map_err(|error| wrong(&error))?;
    Ok(Service {
        resolver: Arc::new(etcd.resolver(&service)),
        identity: Some(service.clone()),
        config: Some(Arc::new(etcd.config(&service))),
        name: Some(service),
        dangerous_plaintext,
    })
}

#[cfg(not(feature = "etcd"))]
fn in_etcd(text: &str, _is_encrypted: bool, _rest: &str) -> Result<Service, Status> {
    Err(wrong(&format_args!(
        "{text:?} needs sinew's feature `etcd`, which this build has not"
    )))
}

fn fixed(text: &str, list: &str) -> Result<FixedList, Status> {
    let mut endpoints = Vec::new();
    for address in list.split(',').map(str::trim).filter(|address| !address.is_empty()) {
        let address: Address = address.parse().map_err(|error| wrong(&error))?;
        if address != address.clone().with_plaintext_allowed(false) {
            return Err(wrong(&format_args!(
                "{text:?}: `?dangerous_plaintext` goes to the end of the list, and holds for all of it"
            )));
        }
        endpoints.push(Endpoint::new(address));
    }
    if endpoints.is_empty() {
        return Err(wrong(&format_args!(
            "{text:?} names no endpoint; expected static:///host:port,host:port"
        )));
    }
    Ok(FixedList::new(endpoints))
}

fn in_file(text: &str, path: &str) -> Result<String, Status> {
    if path.is_empty() {
        return Err(wrong(&format_args!(
            "{text:?} names no file; expected file:///etc/shop/orders.json"
        )));
    }
    Ok(format!("/{path}"))
}

fn named(text: &str, service: &str) -> Result<String, Status> {
    if service.is_empty() {
        return Err(wrong(&format_args!(
            "{text:?} names no service; expected mem:///shop.Orders"
        )));
    }
    Ok(service.to_owned())
}

pub(super) fn wrong(error: &dyn std::fmt::Display) -> Status {
    Status::invalid_argument(error.to_string()).with_handler_ran(HandlerRan::No)
}

#[cfg(test)]
mod tests {
    use super::Target;

    #[test]
    fn targets_say_how_endpoints_are_found() {
        for text in [
            "127.0.0.1:1",
            "unix:///run/x.sock",
            "mem:here",
            "mem://here",
            "tcp://[::1]:1",
        ] {
            assert!(matches!(Target::parse(text), Ok(Target::Address(_))), "{text}");
        }
        for (text, identity, plaintext) in [
            ("static:///127.0.0.1:1", None, false),
            ("static:///a:1, tls://b:2,?dangerous_plaintext", None, true),
            ("mem:///shop.Orders", Some("shop.Orders"), false),
        ] {
            let Ok(Target::Service(service)) = Target::parse(text) else {
                panic!("{text}")
            };
            assert_eq!(
                (service.identity.as_deref(), service.dangerous_plaintext),
                (identity, plaintext)
            );
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (text, told) in [
            ("static:///", "names no endpoint"),
            ("static:///a", "needs a host and a port"),
            ("static:///a:1?dangerous_plaintext,b:2", "unknown option"),
            ("mem:///", "names no service"),
            ("ftp:///x", "unknown scheme"),
            ("static:///a:1?fast", "the only one"),
            ("file:///", "names no file"),
        ] {
            let error = Target::parse(text).err().unwrap_or_else(|| panic!("{text}"));
            assert!(error.message().contains(told), "{text}: {error}");
        }
    }
}

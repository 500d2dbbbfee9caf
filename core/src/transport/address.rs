//! Addresses as users write them: `quic://host:port`, `tls://host:port`, `quic+tcp://host:port`, `tcp://host:port`, `host:port`, `unix:path`, `mem:name`.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use super::error::AddressError;

/// Where to connect to or to listen on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// A TCP port. A bare `host:port` is this.
    Tcp {
        /// Name or number of the host; without the brackets of IPv6.
        host: String,
        /// The port; 0 lets the system choose one to listen on.
        port: u16,
        /// Clear text may leave the machine.
        dangerous_plaintext: bool,
    },
    /// A TCP port with TLS 1.3.
    Tls {
        /// Name or number of the host; without the brackets of IPv6.
        host: String,
        /// The port; 0 lets the system choose one to listen on.
        port: u16,
    },
    /// A UDP port with QUIC.
    Quic {
        /// Name or number of the host; without the brackets of IPv6.
        host: String,
        /// The port; 0 lets the system choose one to listen on.
        port: u16,
    },
    /// QUIC where it gets through, else TLS over TCP, both at the same port.
    QuicTcp {
        /// Name or number of the host; without the brackets of IPv6.
        host: String,
        /// The port; 0 lets the system choose one to listen on.
        port: u16,
    },
    /// A unix socket.
    Unix {
        /// Its path.
        path: PathBuf,
    },
    /// A name within this process.
    Mem {
        /// The name.
        name: String,
    },
}

impl Address {
    /// The same address with clear text beyond the machine allowed.
    #[must_use]
    pub fn with_dangerous_plaintext(mut self) -> Self {
        if let Self::Tcp {
            dangerous_plaintext, ..
        } = &mut self
        {
            *dangerous_plaintext = true;
        }
        self
    }
}

impl Address {
    /// The same address with clear text beyond the machine allowed or not, whatever it said itself.
    pub(crate) fn with_plaintext_allowed(mut self, allowed: bool) -> Self {
        if let Self::Tcp {
            dangerous_plaintext, ..
        } = &mut self
        {
            *dangerous_plaintext = allowed;
        }
        self
    }

    /// The number of the host, if it is one.
    #[must_use]
    pub fn host_ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp { host, .. } | Self::Tls { host, .. } | Self::Quic { host, .. } | Self::QuicTcp { host, .. } => {
                host.parse().ok()
            }
            Self::Unix { .. } | Self::Mem { .. } => None,
        }
    }

    /// The same port at another host.
    #[cfg(feature = "etcd")]
    pub(crate) fn with_host(mut self, ip: IpAddr) -> Self {
        match &mut self {
            Self::Tcp { host, .. } | Self::Tls { host, .. } | Self::Quic { host, .. } | Self::QuicTcp { host, .. } => {
                *host = ip.to_string();
            }
            Self::Unix { .. } | Self::Mem { .. } => {}
        }
        self
    }

    /// Whether QUIC is spoken there.
    #[must_use]
    pub fn is_quic(&self) -> bool {
        matches!(self, Self::Quic { .. } | Self::QuicTcp { .. })
    }

    /// Whether connections to it are encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        match self {
            Self::Tls { .. } | Self::Quic { .. } | Self::QuicTcp { .. } => true,
            Self::Tcp { .. } | Self::Unix { .. } | Self::Mem { .. } => false,
        }
    }
}

/// Whether traffic to `ip` stays on this machine.
#[must_use]
pub fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let owned = || text.chars().take(256).collect::<String>();
        let (base, options) = text.split_once('?').unwrap_or((text, ""));
        let mut dangerous_plaintext = false;
        for option in options.split('&').filter(|option| !option.is_empty()) {
            if option != "dangerous_plaintext" || base.starts_with("tls:") || base.starts_with("quic") {
                return Err(AddressError::Option {
                    option: option.to_owned(),
                    text: owned(),
                });
            }
            dangerous_plaintext = true;
        }
        let named = |rest: &str| {
            let name = rest.strip_prefix("//").unwrap_or(rest);
            if name.is_empty() {
                return Err(AddressError::Empty { text: owned() });
            }
            Ok(name.to_owned())
        };
        if let Some(rest) = base.strip_prefix("unix:") {
            return Ok(Self::Unix {
                path: named(rest)?.into(),
            });
        }
        if let Some(rest) = base.strip_prefix("mem:") {
            return Ok(Self::Mem { name: named(rest)? });
        }
        let (scheme, host_port) = base.split_once("://").unwrap_or(("tcp", base));
        let missing = match scheme {
            "tcp" => None,
            "tls" => (!cfg!(feature = "tls")).then_some("tls"),
            "quic" | "quic+tcp" => (!cfg!(feature = "quic")).then_some("quic"),
            _ => return Err(AddressError::Scheme { text: owned() }),
        };
        if let Some(feature) = missing {
            return Err(AddressError::Feature { text: owned(), feature });
        }
        let (host, port) = host_port.rsplit_once(':').ok_or_else(|| AddressError::Port { text: owned() })?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().map_err(|_| AddressError::Port { text: owned() })?;
        if host.is_empty() || (host.contains(':') && host.parse::<IpAddr>().is_err()) {
            return Err(AddressError::Port { text: owned() });
        }
        let host = host.to_owned();
        Ok(match scheme {
            "tls" => Self::Tls { host, port },
            "quic" => Self::Quic { host, port },
            "quic+tcp" => Self::QuicTcp { host, port },
            _ => Self::Tcp {
                host,
                port,
                dangerous_plaintext,
            },
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut host_port = |scheme, host, port| write!(f, "{scheme}://{}", HostPort(host, port));
        match self {
            Self::Tcp { host, port, .. } => host_port("tcp", host, *port),
            Self::Tls { host, port } => host_port("tls", host, *port),
            Self::Quic { host, port } => host_port("quic", host, *port),
            Self::QuicTcp { host, port } => host_port("quic+tcp", host, *port),
            Self::Unix { path } => write!(f, "unix:{}", path.display()),
            Self::Mem { name } => write!(f, "mem:{name}"),
        }
    }
}

/// A host and a port, with brackets where they are needed.
pub(super) struct HostPort<'a>(pub(super) &'a str, pub(super) u16);

impl fmt::Display for HostPort<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.contains(':') {
            true => write!(f, "[{}]:{}", self.0, self.1),
            false => write!(f, "{}:{}", self.0, self.1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, AddressError, is_loopback};

    #[test]
    fn addresses_parse_and_print() {
        for (text, printed) in [
            ("127.0.0.1:7000", "tcp://127.0.0.1:7000"),
            ("tcp://localhost:0", "tcp://localhost:0"),
            ("tcp://[::1]:7000", "tcp://[::1]:7000"),
            #[cfg(feature = "tls")]
            ("tls://orders.internal:7000", "tls://orders.internal:7000"),
            #[cfg(feature = "tls")]
            ("tls://[::1]:0", "tls://[::1]:0"),
            #[cfg(feature = "quic")]
            ("quic://orders.internal:7000", "quic://orders.internal:7000"),
            #[cfg(feature = "quic")]
            ("quic+tcp://[::1]:0", "quic+tcp://[::1]:0"),
            ("unix:/run/shop.sock", "unix:/run/shop.sock"),
            ("unix:///run/shop.sock", "unix:/run/shop.sock"),
            ("mem:orders", "mem:orders"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), printed);
        }
    }

    #[test]
    fn bad_addresses_say_what_to_write() {
        for text in ["", "localhost", "localhost:", ":7000", "host:99999", "1:2:3"] {
            assert!(
                matches!(text.parse::<Address>(), Err(AddressError::Port { .. })),
                "{text}"
            );
        }
        assert!(matches!(
            "http://x:1".parse::<Address>(),
            Err(AddressError::Scheme { .. })
        ));
        assert!(matches!("unix:".parse::<Address>(), Err(AddressError::Empty { .. })));
        for text in [
            "x:1?plain",
            "tls://x:1?dangerous_plaintext",
            "quic://x:1?dangerous_plaintext",
        ] {
            assert!(
                matches!(text.parse::<Address>(), Err(AddressError::Option { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn the_option_allows_clear_text() {
        let address: Address = "tcp://10.0.0.1:1?dangerous_plaintext".parse().unwrap();
        assert!(matches!(
            address,
            Address::Tcp {
                dangerous_plaintext: true,
                ..
            }
        ));
    }

    #[test]
    fn loopback_is_seen_through_mapped_addresses() {
        for (ip, loopback) in [
            ("127.8.8.8", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("10.0.0.1", false),
            ("::", false),
        ] {
            assert_eq!(is_loopback(ip.parse().unwrap()), loopback, "{ip}");
        }
    }
}

//! Dialling: address -> byte stream, within the connect time-out.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use super::address::{Address, is_loopback};
use super::error::ConnectError;
use super::io::ByteStream;
use super::mem;

/// Time that one attempt to connect has, name resolution included: a LAN answers within milliseconds, and one lost SYN is sent again after 1 s.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Connects to `address`.
///
/// # Errors
/// [`ConnectError`] names the address and the cause; of several addresses of a name, the last one's.
pub async fn connect(address: &Address, timeout: Duration) -> Result<ByteStream, ConnectError> {
    match tokio::time::timeout(timeout, dial(address)).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::TimedOut {
            address: address.to_string(),
            after: timeout,
        }),
    }
}

async fn dial(address: &Address) -> Result<ByteStream, ConnectError> {
    match address {
        Address::Tcp {
            host,
            port,
            dangerous_plaintext,
        } => dial_tcp(host, *port, *dangerous_plaintext).await,
        #[cfg(unix)]
        Address::Unix { path } => match tokio::net::UnixStream::connect(path).await {
            Ok(stream) => Ok(ByteStream::unix(stream)),
            Err(source) => Err(ConnectError::Io {
                address: address.to_string(),
                source,
            }),
        },
        #[cfg(not(unix))]
        Address::Unix { .. } => Err(ConnectError::Io {
            address: address.to_string(),
            source: io::ErrorKind::Unsupported.into(),
        }),
        Address::Mem { name } => mem::connect(name),
    }
}

async fn dial_tcp(host: &str, port: u16, plaintext: bool) -> Result<ByteStream, ConnectError> {
    let resolve_error = |source| ConnectError::Resolve {
        host: host.to_owned(),
        source,
    };
    let candidates: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await.map_err(resolve_error)?.collect();
    let mut last = None;
    for candidate in candidates {
        // The resolved address decides: a name says nothing about where the bytes go.
        if !plaintext && !is_loopback(candidate.ip()) {
            return Err(ConnectError::Plaintext {
                address: format!("tcp://{candidate}"),
            });
        }
        match TcpStream::connect(candidate).await {
            Ok(stream) => return Ok(ByteStream::tcp(stream, candidate)),
            Err(source) => {
                last = Some(ConnectError::Io {
                    address: format!("tcp://{candidate}"),
                    source,
                });
            }
        }
    }
    Err(last.unwrap_or_else(|| resolve_error(io::Error::new(io::ErrorKind::NotFound, "the name has no address"))))
}

//! A connection to one member of the cluster, with bounds on everything that is asked of it.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};

use super::{Config, Member};
use crate::discovery::resolver::ResolveError;

/// Time that one request to etcd has. A healthy cluster answers within milliseconds, and elects a leader within a second.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Time to connect to a member.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Silence after which a member is asked whether it lives, and the time it has to say so: one that is stopped keeps its sockets open.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3));
/// How long to wait between attempts, at most; at random, so that clients of a cluster that comes back do not come at once.
const RETRY: Duration = Duration::from_secs(1);
/// The same before the first attempt at another member: so that all clients of one that went do not come at the same instant.
const SWITCH: Duration = Duration::from_millis(200);

/// Which member is asked next, in turn.
#[derive(Debug, Default)]
pub(super) struct Turns(AtomicUsize);

impl Turns {
    pub(super) fn new() -> Self {
        Self(AtomicUsize::new(fastrand::usize(..) >> 1))
    }

    /// Connects to the next member.
    pub(super) async fn connect(&self, config: &Config) -> Result<(Client, Member), ResolveError> {
        let turn = self.0.fetch_add(1, Ordering::Relaxed);
        let member = &config.members[turn % config.members.len()];
        let client = connect(config, member).await?;
        Ok((client, member.clone()))
    }
}

async fn connect(config: &Config, member: &Member) -> Result<Client, ResolveError> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_keep_alive(KEEPALIVE.0, KEEPALIVE.1)
        .with_keep_alive_while_idle(true)
        .with_require_leader(true);
    if let Some((user, password)) = &config.credentials {
        if config.tls.is_none() && !member.is_loopback() {
            return Err(ResolveError::new(format!(
                "the password for etcd at {member} would leave this machine in clear text; use etcds://, `Etcd::tls` or `Etcd::tls_roots_pem`"
            )));
        }
        options = options.with_user(user, password).with_auto_token_refresh(true);
    }
    if let Some(tls) = &config.tls {
        options = options.with_tls(tls.clone());
    }
    let url = member.url(config.tls.is_some());
    asked(member, "connect", Client::connect([url], Some(options))).await
}

/// What `member` answers in time.
pub(super) async fn asked<T>(
    member: &Member,
    what: &'static str,
    answer: impl Future<Output = Result<T, etcd_client::Error>>,
) -> Result<T, ResolveError> {
    match tokio::time::timeout(REQUEST_TIMEOUT, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(ResolveError::new(format!("etcd at {member}: {what} failed")).with_source(error)),
        Err(_) => Err(ResolveError::new(format!(
            "etcd at {member}: no answer to {what} within {REQUEST_TIMEOUT:?}"
        ))),
    }
}

/// Waits before another member is asked in place of one that was well until now.
pub(super) async fn pause_briefly() {
    tokio::time::sleep(SWITCH.mul_f64(fastrand::f64())).await;
}

/// Waits before the next attempt.
pub(super) async fn pause() {
    tokio::time::sleep(RETRY.mul_f64(0.2 + 0.8 * fastrand::f64())).await;
}

//! Keeps an instance in etcd: a lease, a key for each service, and whatever it takes to get them back.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use etcd_client::{Client, EventType, PutOptions, WatchOptions, WatchStream};
use tokio::time::Instant;

use super::session::{REQUEST_TIMEOUT, Turns, asked, pause};
use super::{Config, Directory, Etcd, Member};
use crate::discovery::endpoint::Endpoint;
use crate::discovery::record;
use crate::discovery::registrar::{Announcement, Announcements, Registrar, RegistrarError};
use crate::discovery::resolver::ResolveError;
use crate::transport::Address;
use crate::transport::address::is_loopback;

/// Within how much time instances come back whose leases were lost: all of them lost theirs at once, and all that write at once would bring etcd down again.
const RETURN_WITHIN: Duration = Duration::from_secs(6);
/// Time that a member has to end a lease.
const REVOKE_TIMEOUT: Duration = Duration::from_millis(700);
/// The code of gRPC for a lease that is no more.
const NOT_FOUND: i32 = 5;
/// A lease is renewed so many times within its time.
const RENEWALS: u32 = 3;

impl Registrar for Etcd {
    fn register(&self, announcements: Announcements) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            let mut registration = Registration {
                config: &self.config,
                announcements,
                lease: None,
                written: None,
                had_lease: false,
            };
            let turns = Turns::new();
            // Boxed, because the client of etcd makes large futures.
            while let Err(error) = Box::pin(registration.keep(&turns)).await {
                if registration.may_stand() {
                    tracing::debug!(%error, "the registration in etcd cannot be kept for the moment");
                } else {
                    tracing::warn!(%error, entered = ?self.config.directory, "an instance is not registered in etcd");
                }
                if registration.announcements.latest().is_none() && !registration.may_stand() {
                    return;
                }
                registration.pause().await;
            }
        })
    }

    fn check(&self, announcement: &Announcement) -> Result<(), RegistrarError> {
        if self.config.members.iter().all(Member::is_loopback) {
            return match announcement.endpoint().addresses().iter().all(is_in_process) {
                true => Err(RegistrarError::new(
                    "the server has no address that another process could reach: bind one, or name one by `Instance::advertise`",
                )),
                false => Ok(()),
            };
        }
        let reachable = announcement.endpoint().addresses().iter().any(|address| !is_on_this_machine(address));
        if reachable {
            return Ok(());
        }
        Err(RegistrarError::new(format!(
            "etcd at {} serves other machines, and none of the server's addresses can be reached from there: bind an address of the network, or name one by \
             `Instance::advertise`",
            self.config.members[0]
        )))
    }
}

/// An instance in etcd.
struct Registration<'a> {
    config: &'a Config,
    announcements: Announcements,
    lease: Option<Lease>,
    /// What etcd has, as far as is known.
    written: Option<Announcement>,
    /// It was registered before, so others lost their leases, too, if this one did.
    had_lease: bool,
}

#[derive(Clone, Copy)]
struct Lease {
    id: i64,
    /// When etcd gives it up, if it hears nothing.
    until: Instant,
}

impl Registration<'_> {
    /// Whether etcd may have it still.
    fn may_stand(&self) -> bool {
        self.lease.is_some_and(|lease| Instant::now() < lease.until)
    }

    /// Keeps the registration by one member of the cluster, until it fails or the instance is withdrawn.
    async fn keep(&mut self, turns: &Turns) -> Result<(), ResolveError> {
        let (mut client, member) = turns.connect(self.config).await?;
        loop {
            if self.announcements.latest().is_none() {
                return self.withdraw(&mut client, &member).await;
            }
            let Some(lease) = self.renewed(&mut client, &member).await? else {
                self.wait_for_turn().await;
                if self.announcements.latest().is_some() {
                    self.grant(&mut client, &member).await?;
                }
                continue;
            };
            let mut watch = self.write(&mut client, &member, lease).await?;
            if let Some(watch) = &mut watch {
                self.watch_over(&mut client, &member, watch).await?;
            }
        }
    }

    /// The lease, kept for another while; `None` if there is none any more.
    async fn renewed(&mut self, client: &mut Client, member: &Member) -> Result<Option<Lease>, ResolveError> {
        let Some(lease) = self.lease else { return Ok(None) };
        let asked_at = Instant::now();
        let renewal = async {
            match client.lease_keep_alive(lease.id).await {
                Ok((_, _)) => Ok(true),
                // It is said by an error of its own, without a code.
                Err(etcd_client::Error::LeaseKeepAliveError(_)) => Ok(false),
                Err(error) => Err(error),
            }
        };
        if asked(member, "the renewal of a lease", renewal).await? {
            let until = asked_at + self.config.lease_ttl;
            self.lease = Some(Lease { until, ..lease });
        } else {
            tracing::info!(%member, "the lease in etcd is lost; the instance registers again");
            self.lease = None;
        }
        Ok(self.lease)
    }

    /// Waits for this instance's turn, if all instances have to come back.
    async fn wait_for_turn(&mut self) {
        if !self.had_lease {
            return;
        }
        let turn = Instant::now() + RETURN_WITHIN.mul_f64(fastrand::f64());
        // Both are cancel safe; whoever is withdrawn need not wait.
        tokio::select! {
            () = tokio::time::sleep_until(turn) => {}
            () = self.announcements.changed() => {}
        }
    }

    async fn grant(&mut self, client: &mut Client, member: &Member) -> Result<(), ResolveError> {
        let asked_at = Instant::now();
        let seconds = i64::try_from(self.config.lease_ttl.as_millis().div_ceil(1_000)).unwrap_or(i64::MAX);
        let granted = asked(member, "a lease", client.lease_grant(seconds, None)).await?;
        self.had_lease = true;
        self.lease = Some(Lease {
            id: granted.id(),
            until: asked_at + self.config.lease_ttl,
        });
        Ok(())
    }

    /// Writes what is announced, and watches the keys; `None` if the lease was gone.
    async fn write(
        &mut self,
        client: &mut Client,
        member: &Member,
        lease: Lease,
    ) -> Result<Option<WatchStream>, ResolveError> {
        let Some(announcement) = self.announcements.latest() else {
            return Ok(None);
        };
        let endpoint = match self.config.directory {
            Directory::Services => reachable(announcement.endpoint(), member).await?,
            // It is not there to be reached.
            Directory::Clients => announcement.endpoint().clone(),
        };
        let value = record::to_json(&endpoint);
        let mut watch: Option<WatchStream> = None;
        for service in announcement.services() {
            let key = self.key(service, &endpoint);
            let options = PutOptions::new().with_lease(lease.id);
            let put = asked(
                member,
                "a registration",
                client.put(key.clone(), value.clone(), Some(options)),
            )
            .await;
            let revision = put?.header().map_or(0, etcd_client::ResponseHeader::revision);
            let options = WatchOptions::new().with_start_revision(revision + 1);
            match &mut watch {
                None => watch = Some(asked(member, "watch", client.watch(key, Some(options))).await?),
                Some(watch) => asked(member, "watch", watch.watch(key, Some(options))).await?,
            }
        }
        tracing::debug!(endpoint = endpoint.name(), %member, state = endpoint.state().as_str(), "registered in etcd");
        self.written = Some(announcement);
        Ok(watch)
    }

    /// Renews the lease, and looks after the keys, until something has to be written.
    async fn watch_over(
        &mut self,
        client: &mut Client,
        member: &Member,
        watch: &mut WatchStream,
    ) -> Result<(), ResolveError> {
        let every = self.config.lease_ttl / RENEWALS;
        let mut renew_at = Instant::now() + every;
        // Once in the time of a lease the keys are read, in case that the watch is deaf.
        let mut renewals = 0_u32;
        loop {
            // All of them are cancel safe: a message that was not read is read the next time.
            tokio::select! {
                () = self.announcements.changed() => return Ok(()),
                message = watch.message() => {
                    let ended = || ResolveError::new(format!("etcd at {member}: the watch ended"));
                    let message = message.map_err(|error| ended().with_source(error))?.ok_or_else(ended)?;
                    if message.canceled() {
                        return Err(ended());
                    }
                    if message.events().iter().any(|event| event.event_type() == EventType::Delete) {
                        tracing::info!(%member, "somebody deleted the registration in etcd; it is written again");
                        return Ok(());
                    }
                }
                () = tokio::time::sleep_until(renew_at) => {
                    renew_at = Instant::now() + every;
                    renewals += 1;
                    if self.renewed(client, member).await?.is_none() {
                        return Ok(());
                    }
                    if renewals.is_multiple_of(RENEWALS) && !self.is_there(client, member).await? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Whether all keys are there.
    async fn is_there(&self, client: &mut Client, member: &Member) -> Result<bool, ResolveError> {
        let Some(written) = &self.written else { return Ok(false) };
        for service in written.services() {
            let key = self.key(service, written.endpoint());
            let found = asked(member, "the look at a registration", client.get(key, None)).await?;
            if found.kvs().is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes the instance out: its keys go with its lease.
    async fn withdraw(&mut self, client: &mut Client, member: &Member) -> Result<(), ResolveError> {
        let Some(lease) = self.lease else { return Ok(()) };
        // Also if it should be over by now: a new leader of etcd gives all leases their whole time again.
        let revocation = async {
            match client.lease_revoke(lease.id).await {
                Ok(_) => Ok(()),
                Err(etcd_client::Error::GRpcStatus(status)) if status.code() as i32 == NOT_FOUND => Ok(()),
                Err(error) => Err(error),
            }
        };
        // Another member has to have its chance before the server is gone.
        let patience = tokio::time::timeout(REVOKE_TIMEOUT, asked(member, "the end of a lease", revocation));
        patience
            .await
            .unwrap_or_else(|_| Err(ResolveError::new("etcd did not take the instance out in time")))?;
        self.lease = None;
        Ok(())
    }

    /// Waits before the next attempt, unless there is something new to say.
    async fn pause(&mut self) {
        let is_withdrawn = self.announcements.latest().is_none();
        // Both are cancel safe.
        tokio::select! {
            () = pause() => {}
            () = self.announcements.changed(), if !is_withdrawn => {}
        }
    }

    fn key(&self, service: &str, endpoint: &Endpoint) -> String {
        format!("{}{}", self.config.service_prefix(service), endpoint.instance())
    }
}

/// The endpoint with addresses that mean the same elsewhere: wildcards become the address of the way to etcd, and what only this machine can reach is left out
/// unless etcd is here, too.
///
/// # Errors
/// There is no way to etcd of the family that the server listens on, or no address is left.
async fn reachable(endpoint: &Endpoint, member: &Member) -> Result<Endpoint, ResolveError> {
    let is_here = member.is_loopback();
    let mut addresses = Vec::new();
    for address in endpoint.addresses() {
        let address = match address.host_ip().filter(IpAddr::is_unspecified) {
            Some(any) => match source_address(member, any).await {
                Some(source) => address.clone().with_host(source),
                None => continue,
            },
            None => address.clone(),
        };
        if !is_in_process(&address) && (is_here || !is_on_this_machine(&address)) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(ResolveError::new(format!(
            "none of the server's addresses can be reached from elsewhere, as seen from the way to etcd at {member}"
        )));
    }
    let name = match endpoint.name() == endpoint.addresses().first().map(ToString::to_string).unwrap_or_default() {
        true => addresses.first().map(ToString::to_string).unwrap_or_default(),
        false => endpoint.name().to_owned(),
    };
    Ok(endpoint.clone().with_other_addresses(addresses).with_name(name))
}

/// The address of the family of `any` by which this machine reaches etcd; no packet is sent for it. A socket for IPv6 takes IPv4 as well.
async fn source_address(member: &Member, any: IpAddr) -> Option<IpAddr> {
    let lookup = tokio::net::lookup_host((member.host.as_str(), member.port));
    let mut targets = tokio::time::timeout(REQUEST_TIMEOUT, lookup).await.ok()?.ok()?;
    let target: SocketAddr = targets.find(|target| any.is_ipv6() || target.is_ipv4())?;
    let from: IpAddr = match target {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = tokio::net::UdpSocket::bind((from, 0)).await.ok()?;
    socket.connect(target).await.ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

fn is_in_process(address: &Address) -> bool {
    matches!(address, Address::Mem { .. })
}

/// Whether only this machine can reach it.
fn is_on_this_machine(address: &Address) -> bool {
    match address {
        Address::Mem { .. } | Address::Unix { .. } => true,
        Address::Tcp { .. } | Address::Tls { .. } | Address::Quic { .. } | Address::QuicTcp { .. } => {
            address.host_ip().is_some_and(is_loopback)
        }
    }
}

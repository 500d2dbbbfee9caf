//! Follows the keys of a service: the list at one revision, then every change since.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, EventType, GetOptions, KeyValue, ResponseHeader, WatchOptions, WatchResponse, WatchStream};
use tokio::time::Instant;

use super::session::{Turns, asked, pause};
use super::{Config, Member};
use crate::discovery::Endpoint;
use crate::discovery::record;
use crate::discovery::resolver::{ENDPOINTS_MAX, Publisher, ResolveError, Resolver};

/// Keys that are read at once: an answer of a few hundred KiB at most, far below what the client of etcd takes.
const PAGE_KEYS: i64 = 500;
/// Keys that are remembered at most. Those beyond are not looked at, and a list of so many is cut off anyway.
const KEYS_MAX: usize = 2 * ENDPOINTS_MAX;
/// How long to wait for more changes before they are published: a rolling restart makes many at once.
const COALESCE: Duration = Duration::from_millis(20);
/// How often the watch is asked how far it is, and the time it has to answer: a member that was stopped, or cut off, says nothing.
const PROBE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// The time that instances have to register anew when their leases are gone.
const REGISTER_ANEW: Duration = Duration::from_secs(5);
/// How often the list is read as a whole, give or take a fifth: whatever was lost is found then.
const RELIST: Duration = Duration::from_mins(5);

/// Finds the endpoints of a service in etcd.
#[derive(Clone)]
pub struct EtcdResolver {
    config: Arc<Config>,
    service: String,
}

impl EtcdResolver {
    pub(super) fn new(config: Arc<Config>, service: String) -> Self {
        Self { config, service }
    }
}

impl Resolver for EtcdResolver {
    fn watch(&self, publisher: Publisher) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            let turns = Turns::new();
            let mut mirror = Mirror::new(self.config.service_prefix(&self.service));
            let mut failures = 0;
            loop {
                // Boxed, because the client of etcd makes large futures.
                let Err(error) = Box::pin(follow(&self.config, &turns, &mut mirror, &publisher)).await;
                failures += 1;
                // As long as nothing is known at all, every member is asked before that counts as a failure.
                if mirror.was_read || failures >= self.config.members.len() {
                    publisher.fail(error);
                    pause().await;
                }
            }
        })
    }

    fn removal_window(&self) -> Option<Duration> {
        Some(self.config.lease_ttl + REGISTER_ANEW)
    }
}

/// What is known of the keys of a service, across connections.
struct Mirror {
    prefix: String,
    known: BTreeMap<Vec<u8>, Known>,
    /// The store that the revisions belong to.
    cluster_id: u64,
    /// All changes up to this one are taken up; 0 if the list has to be read as a whole.
    revision: i64,
    relist_at: Instant,
    /// The list was read once.
    was_read: bool,
    /// Records that could not be read.
    unreadable: u64,
}

struct Known {
    /// When the key was made: of two runs of one instance, the later one counts.
    created: i64,
    /// `None` if it is no record.
    endpoint: Option<Endpoint>,
}

enum Never {}

/// Follows one member until it fails.
async fn follow(
    config: &Config,
    turns: &Turns,
    mirror: &mut Mirror,
    publisher: &Publisher,
) -> Result<Never, ResolveError> {
    let (mut client, member) = turns.connect(config).await?;
    loop {
        if mirror.revision == 0 {
            mirror.list(&mut client, &member).await?;
        }
        // Also what was taken up by a watch that broke before it was published.
        publisher.publish(mirror.endpoints());
        let options = WatchOptions::new().with_prefix().with_progress_notify();
        let options = options.with_start_revision(mirror.revision + 1);
        let mut watch = asked(&member, "watch", client.watch(mirror.prefix.clone(), Some(options))).await?;
        mirror.follow(&mut watch, &member, publisher).await?;
        // The history is gone, or another one: everything anew, from the same member, and never as fast as it answers.
        pause().await;
    }
}

/// What a message of the watch means.
#[derive(Debug, PartialEq, Eq)]
enum News {
    /// The keys changed.
    Changes,
    /// It lives.
    Nothing,
    /// The list has to be read as a whole.
    Relist,
}

impl Mirror {
    fn new(prefix: String) -> Self {
        Self {
            prefix,
            known: BTreeMap::new(),
            cluster_id: 0,
            revision: 0,
            relist_at: Instant::now(),
            was_read: false,
            unreadable: 0,
        }
    }

    /// Reads all keys, in pages that show the store at one revision.
    async fn list(&mut self, client: &mut Client, member: &Member) -> Result<(), ResolveError> {
        let mut keys: BTreeMap<Vec<u8>, Known> = BTreeMap::new();
        let mut revision = 0;
        let mut from = self.prefix.clone().into_bytes();
        let end = prefix_end(self.prefix.as_bytes());
        loop {
            let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE_KEYS).with_revision(revision);
            let page = asked(member, "list", client.get(from.clone(), Some(options))).await?;
            let header = page.header().ok_or_else(|| ResolveError::new("etcd sent an answer without a header"))?;
            if revision == 0 {
                revision = header.revision();
                self.cluster_id = header.cluster_id();
            }
            for pair in page.kvs() {
                let known = self.read(pair);
                keys.insert(pair.key().to_vec(), known);
            }
            match page.kvs().last() {
                Some(last) if page.more() && keys.len() < KEYS_MAX => {
                    from = last.key().to_vec();
                    from.push(0);
                }
                _ => break,
            }
        }
        self.known = keys;
        self.was_read = true;
        self.revision = revision;
        self.relist_at = Instant::now() + RELIST.mul_f64(0.8 + 0.4 * fastrand::f64());
        Ok(())
    }

    fn read(&mut self, pair: &KeyValue) -> Known {
        let endpoint = record::from_json(pair.value());
        if let Err(error) = &endpoint {
            self.unreadable += 1;
            let key = String::from_utf8_lossy(pair.key());
            tracing::warn!(%key, %error, unreadable = self.unreadable, "a record of a service cannot be read; it is left out");
        }
        Known {
            created: pair.create_revision(),
            endpoint: endpoint.ok(),
        }
    }

    /// Takes up changes until the list has to be read again.
    async fn follow(
        &mut self,
        watch: &mut WatchStream,
        member: &Member,
        publisher: &Publisher,
    ) -> Result<(), ResolveError> {
        let mut publish_at: Option<Instant> = None;
        let mut probe_at = Instant::now() + PROBE.0;
        let mut asked_at: Option<Instant> = None;
        loop {
            let deadline = asked_at.map_or(probe_at, |asked| asked + PROBE.1);
            // All of them are cancel safe: a message that was not read is read the next time.
            tokio::select! {
                message = watch.message() => {
                    let failed = || ResolveError::new(format!("etcd at {member}: the watch ended"));
                    let message = message.map_err(|error| failed().with_source(error))?.ok_or_else(failed)?;
                    probe_at = Instant::now() + PROBE.0;
                    asked_at = None;
                    match self.take_up(&message)? {
                        News::Changes => publish_at = publish_at.or_else(|| Some(Instant::now() + COALESCE)),
                        // Until the next list is there, the last one stands.
                        News::Relist => return Ok(()),
                        News::Nothing => if publish_at.is_none() && !self.known.is_empty() { publisher.confirm() },
                    }
                }
                () = tokio::time::sleep_until(publish_at.unwrap_or(deadline)), if publish_at.is_some() => {
                    publish_at = None;
                    publisher.publish(self.endpoints());
                }
                () = tokio::time::sleep_until(deadline) => {
                    if asked_at.is_some() {
                        return Err(ResolveError::new(format!("etcd at {member} is silent")));
                    }
                    asked_at = Some(Instant::now());
                    asked(member, "progress", watch.request_progress()).await?;
                }
                () = tokio::time::sleep_until(self.relist_at) => {
                    self.revision = 0;
                    return Ok(());
                }
            }
        }
    }

    fn take_up(&mut self, message: &WatchResponse) -> Result<News, ResolveError> {
        if message.compact_revision() > 0 {
            tracing::debug!(
                revision = self.revision,
                "etcd has compacted what was missed; the list is read again"
            );
            self.revision = 0;
            return Ok(News::Relist);
        }
        if message.canceled() {
            let reason = message.cancel_reason();
            return Err(ResolveError::new(format!("etcd cancelled the watch: {reason}")));
        }
        if message.header().is_some_and(|header| self.is_another_store(header)) {
            tracing::warn!("etcd was wiped or restored; the list is read again");
            self.revision = 0;
            return Ok(News::Relist);
        }
        let mut news = News::Nothing;
        for event in message.events() {
            let Some(pair) = event.kv() else { continue };
            // What a progress message says is not taken for a revision: it may come before events that are older.
            self.revision = self.revision.max(pair.mod_revision());
            news = News::Changes;
            match event.event_type() {
                EventType::Delete => {
                    self.known.remove(pair.key());
                }
                EventType::Put if self.known.len() < KEYS_MAX || self.known.contains_key(pair.key()) => {
                    let known = self.read(pair);
                    self.known.insert(pair.key().to_vec(), known);
                }
                EventType::Put => {}
            }
        }
        Ok(news)
    }

    /// Whether the revisions that are known belong to a history that is no more.
    fn is_another_store(&self, header: &ResponseHeader) -> bool {
        header.cluster_id() != self.cluster_id || header.revision() < self.revision
    }

    /// The endpoints, of several runs of one instance only the latest.
    fn endpoints(&self) -> Vec<Endpoint> {
        let mut readable: Vec<(i64, &Endpoint)> =
            self.known.values().filter_map(|known| Some((known.created, known.endpoint.as_ref()?))).collect();
        // Of one name the last of a list counts.
        readable.sort_by_key(|(created, _)| *created);
        readable.into_iter().map(|(_, endpoint)| endpoint.clone()).collect()
    }
}

/// The first key after all that begin with `prefix`.
fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    // It ends with `/`, which has a successor.
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}

impl std::fmt::Debug for EtcdResolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdResolver")
            .field("members", &self.config.members)
            .field("prefix", &self.config.service_prefix(&self.service))
            .finish()
    }
}

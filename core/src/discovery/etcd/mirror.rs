//! Follows a range of keys: the list at one revision, then every change since.
//!
//! What the keys mean is the [`Reader`]'s business.

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_client::{Client, EventType, GetOptions, KeyValue, ResponseHeader, WatchOptions, WatchResponse, WatchStream};
use tokio::time::Instant;

use super::session::{Turns, asked, pause, pause_briefly};
use super::{Config, Member};
use crate::discovery::resolver::ResolveError;

/// Keys that are read at once: an answer of a few hundred KiB at most, far below what the client of etcd takes.
const PAGE_KEYS: i64 = 500;
/// How long to wait for more changes before they are published: a rolling restart makes many at once.
const COALESCE: Duration = Duration::from_millis(20);
/// How often the watch is asked how far it is, and the time it has to answer: a member that was stopped, or cut off, says nothing.
const PROBE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// How often the list is read as a whole, give or take a fifth: whatever was lost is found then.
const RELIST: Duration = Duration::from_mins(5);

/// Makes something of the keys.
pub(crate) trait Reader: Sync {
    /// What the value of a key means.
    type Value: Send;

    /// Reads one key; `None` if it cannot be read.
    fn read(&self, pair: &KeyValue) -> Option<Self::Value>;
    /// The keys are these; a value of `None` cannot be read.
    fn publish(&self, keys: &Keys<Self::Value>);
    /// They are still what they were.
    fn confirm(&self);
    /// They could not be read.
    fn fail(&self, error: ResolveError);
}

/// The keys and what they mean.
pub(crate) type Keys<V> = BTreeMap<Vec<u8>, Known<V>>;

/// Which keys.
#[derive(Clone, Debug)]
pub(crate) struct Range {
    pub(crate) from: Vec<u8>,
    /// The first one behind it.
    pub(crate) end: Vec<u8>,
    /// Keys that are remembered at most; those beyond are not looked at.
    pub(crate) keys_max: usize,
}

impl Range {
    /// All keys that begin with `prefix`, which ends with `/`.
    pub(crate) fn prefix(prefix: String, keys_max: usize) -> Self {
        let from = prefix.into_bytes();
        let mut end = from.clone();
        if let Some(last) = end.last_mut() {
            *last = last.saturating_add(1);
        }
        Self { from, end, keys_max }
    }

    /// One key.
    pub(crate) fn key(key: String) -> Self {
        let from = key.into_bytes();
        let mut end = from.clone();
        end.push(0);
        Self { from, end, keys_max: 1 }
    }
}

/// A watch that lasted as long was no accident.
const WELL_AFTER: Duration = Duration::from_secs(1);

/// Follows the keys of `range` for ever.
pub(crate) async fn follow<R: Reader>(config: &Config, range: Range, reader: &R) {
    let turns = Turns::new();
    let mut mirror = Mirror::new(range);
    let mut failures = 0;
    loop {
        // Boxed, because the client of etcd makes large futures.
        let Err(error) = Box::pin(follow_member(config, &turns, &mut mirror, reader)).await;
        let was_well = mirror.followed_since.take().is_some_and(|since| since.elapsed() >= WELL_AFTER);
        failures = if was_well { 0 } else { failures + 1 };
        // As long as nothing is known at all, every member is asked before that counts as a failure.
        if mirror.was_read || failures >= config.members.len() {
            reader.fail(error);
            // One that went is not the end of the cluster: the next one is asked soon.
            if was_well { pause_briefly().await } else { pause().await }
        }
    }
}

/// What is known of the keys, across connections.
struct Mirror<V> {
    range: Range,
    known: Keys<V>,
    /// The store that the revisions belong to.
    cluster_id: u64,
    /// All changes up to this one are taken up; 0 if the list has to be read as a whole.
    revision: i64,
    relist_at: Instant,
    /// The list was read once.
    was_read: bool,
    /// When the watch began.
    followed_since: Option<Instant>,
}

/// One key.
pub(crate) struct Known<V> {
    /// The revision at which it was made.
    pub(crate) created: i64,
    /// `None` if it cannot be read.
    pub(crate) value: Option<V>,
}

enum Never {}

/// Follows one member until it fails.
async fn follow_member<R: Reader>(
    config: &Config,
    turns: &Turns,
    mirror: &mut Mirror<R::Value>,
    reader: &R,
) -> Result<Never, ResolveError> {
    let (mut client, member) = turns.connect(config).await?;
    loop {
        if mirror.revision == 0 {
            mirror.list(&mut client, &member, reader).await?;
        }
        // Also what was taken up by a watch that broke before it was published.
        reader.publish(&mirror.known);
        let options = WatchOptions::new().with_range(mirror.range.end.clone()).with_progress_notify();
        let options = options.with_start_revision(mirror.revision + 1);
        let watching = client.watch(mirror.range.from.clone(), Some(options));
        let mut watch = asked(&member, "watch", watching).await?;
        mirror.followed_since = Some(Instant::now());
        mirror.follow(&mut watch, &member, reader).await?;
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

impl<V: Send> Mirror<V> {
    fn new(range: Range) -> Self {
        Self {
            range,
            known: BTreeMap::new(),
            cluster_id: 0,
            revision: 0,
            relist_at: Instant::now(),
            was_read: false,
            followed_since: None,
        }
    }

    /// Reads all keys, in pages that show the store at one revision.
    async fn list(
        &mut self,
        client: &mut Client,
        member: &Member,
        reader: &impl Reader<Value = V>,
    ) -> Result<(), ResolveError> {
        let mut keys = Keys::new();
        let mut revision = 0;
        let mut from = self.range.from.clone();
        let end = self.range.end.clone();
        loop {
            let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE_KEYS).with_revision(revision);
            let page = asked(member, "list", client.get(from.clone(), Some(options))).await?;
            let header = page.header().ok_or_else(|| ResolveError::new("etcd sent an answer without a header"))?;
            if revision == 0 {
                revision = header.revision();
                self.cluster_id = header.cluster_id();
            }
            for pair in page.kvs() {
                keys.insert(pair.key().to_vec(), Known::read(pair, reader));
            }
            match page.kvs().last() {
                Some(last) if page.more() && keys.len() < self.range.keys_max => {
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

    /// Takes up changes until the list has to be read again.
    async fn follow(
        &mut self,
        watch: &mut WatchStream,
        member: &Member,
        reader: &impl Reader<Value = V>,
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
                    match self.take_up(&message, reader)? {
                        News::Changes => publish_at = publish_at.or_else(|| Some(Instant::now() + COALESCE)),
                        // Until the next list is there, the last one stands.
                        News::Relist => return Ok(()),
                        News::Nothing => if publish_at.is_none() && !self.known.is_empty() { reader.confirm() },
                    }
                }
                () = tokio::time::sleep_until(publish_at.unwrap_or(deadline)), if publish_at.is_some() => {
                    publish_at = None;
                    reader.publish(&self.known);
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

    fn take_up(&mut self, message: &WatchResponse, reader: &impl Reader<Value = V>) -> Result<News, ResolveError> {
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
                EventType::Put if self.known.len() < self.range.keys_max || self.known.contains_key(pair.key()) => {
                    self.known.insert(pair.key().to_vec(), Known::read(pair, reader));
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
}

impl<V> Known<V> {
    fn read(pair: &KeyValue, reader: &impl Reader<Value = V>) -> Self {
        Self {
            created: pair.create_revision(),
            value: reader.read(pair),
        }
    }
}

//! The last list of endpoints on disk, for a client that starts while its registry is down.

use std::future::Future;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::file::FILE_BYTES_MAX;
use super::resolver::{Publisher, Resolution, Resolver};
use super::{record, watched_file};

/// How long to wait for the registry before the list on disk counts; sooner if the registry fails.
const WAIT: Duration = Duration::from_millis(500);
/// The least time between two writes: a rolling restart changes the list every few moments.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// A resolver whose lists are kept on disk.
pub(crate) struct Saved {
    inner: Arc<dyn Resolver>,
    path: PathBuf,
}

impl Saved {
    pub(crate) fn new(inner: Arc<dyn Resolver>, path: PathBuf) -> Self {
        Self { inner, path }
    }
}

impl Resolver for Saved {
    fn watch(&self, publisher: Publisher) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            let (inside, mut lists) = Publisher::channel();
            let mut watching = self.inner.watch(inside);
            let mut is_watching = true;
            let wait = tokio::time::sleep(WAIT);
            tokio::pin!(wait);
            let mut file = File::new(&self.path);
            loop {
                // All of them are cancel safe: a list can be looked at again, and what is to be written stays so.
                tokio::select! {
                    () = &mut watching, if is_watching => is_watching = false,
                    changed = lists.changed() => {
                        let list = lists.latest();
                        if list.version() == 0 {
                            file.recall(&publisher).await;
                        }
                        publisher.pass_on(&list);
                        file.note(&list);
                        if !changed {
                            // The inner resolver has returned, and its list stands.
                            file.write_all().await;
                            return publisher.closed().await;
                        }
                    }
                    () = publisher.wanted() => lists.want(),
                    () = &mut wait, if !file.is_settled => file.recall(&publisher).await,
                    () = tokio::time::sleep_until(file.write_at()), if file.is_dirty() => file.write_all().await,
                }
            }
        })
    }

    fn removal_window(&self) -> Option<Duration> {
        self.inner.removal_window()
    }
}

/// The list on disk.
struct File<'a> {
    path: &'a Path,
    /// The registry has answered, or the list was read: it is not read again.
    is_settled: bool,
    /// What was read or written last.
    last: Option<Arc<[Endpoint]>>,
    dirty: Option<Arc<[Endpoint]>>,
    written: Option<Instant>,
}

impl<'a> File<'a> {
    fn new(path: &'a Path) -> Self {
        Self {
            path,
            is_settled: false,
            last: None,
            dirty: None,
            written: None,
        }
    }

    /// Publishes what is on disk, once.
    async fn recall(&mut self, publisher: &Publisher) {
        if std::mem::replace(&mut self.is_settled, true) {
            return;
        }
        let path = self.path.to_owned();
        let read = tokio::task::spawn_blocking(move || read(&path)).await;
        match read.unwrap_or_else(|_| Err("reading was interrupted".to_owned())) {
            Ok(Some(endpoints)) => {
                tracing::warn!(path = %self.path.display(), endpoints = endpoints.len(), "the registry cannot be reached; the list on disk counts");
                self.last = Some(endpoints.clone().into());
                publisher.publish_stale(endpoints);
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(path = %self.path.display(), error, "the list on disk cannot be used"),
        }
    }

    fn note(&mut self, list: &Resolution) {
        if list.version() == 0 {
            return;
        }
        self.is_settled = true;
        if self.last.as_deref() != Some(list.endpoints()) {
            self.dirty = Some(Arc::clone(&list.endpoints));
        }
    }

    fn is_dirty(&self) -> bool {
        self.dirty.is_some()
    }

    fn write_at(&self) -> Instant {
        self.written.map_or_else(Instant::now, |written| written + WRITE_EVERY)
    }

    async fn write_all(&mut self) {
        let Some(endpoints) = self.dirty.take() else { return };
        self.written = Some(Instant::now());
        self.last = Some(Arc::clone(&endpoints));
        let path = self.path.to_owned();
        let written = tokio::task::spawn_blocking(move || write(&path, &endpoints)).await;
        if let Err(error) = written.unwrap_or_else(|_| Err(io::Error::other("writing was interrupted"))) {
            tracing::warn!(path = %self.path.display(), %error, "the list of endpoints cannot be kept on disk");
        }
    }
}

/// `None` if there is no file.
fn read(path: &Path) -> Result<Option<Vec<Endpoint>>, String> {
    match watched_file::read(path, FILE_BYTES_MAX) {
        Ok(text) => record::list_from_json(&text).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// Whoever reads it finds the old list or the new one, also if the machine stops in between.
fn write(path: &Path, endpoints: &[Endpoint]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    // Of two processes with the same path the last one counts.
    new.push(format!(".{}.new", std::process::id()));
    let mut file = std::fs::File::create(&new)?;
    file.write_all(record::list_to_json(endpoints).as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}

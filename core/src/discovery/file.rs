//! Endpoints in a file: `file:///etc/shop/orders.json`.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use super::record;
use super::resolver::{Publisher, ResolveError, Resolver};
use super::watched_file::WatchedFile;

/// Bytes that a file of endpoints may have: as many as a list has endpoints, with 512 bytes for each.
pub(super) const FILE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Finds endpoints in a JSON file, which is looked at every second.
///
/// The file has a list, of addresses or of records: `["10.0.0.1:7000", {"addresses": ["tls://10.0.0.2:7000"], "name": "orders-2", "weight": 50}]`. The
/// fields of a record are those of etcd: `addresses`, and `name`, `instance`, `zone`, `version`, `weight`, `labels`, `state`. With one that cannot be
/// read the whole file counts as unreadable, and the last list stands; so it does when the file is gone, or the list in it empty.
#[derive(Clone, Debug)]
pub struct FileResolver {
    path: PathBuf,
}

impl FileResolver {
    /// The file at `path`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    fn failed(&self, what: &str) -> ResolveError {
        ResolveError::new(format!("{} {what}", self.path.display()))
    }
}

impl Resolver for FileResolver {
    fn watch(&self, publisher: Publisher) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            let mut file = WatchedFile::new(&self.path, FILE_BYTES_MAX);
            loop {
                match file.changed().await {
                    Ok(text) => match record::list_from_json(&text) {
                        Ok(endpoints) => publisher.publish(endpoints),
                        Err(error) => publisher.fail(self.failed(&format!("has no list of endpoints: {error}"))),
                    },
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        publisher.fail(self.failed("does not exist"));
                    }
                    Err(error) => publisher.fail(self.failed("cannot be read").with_source(error)),
                }
            }
        })
    }

    /// A file means what it says.
    fn removal_window(&self) -> Option<Duration> {
        None
    }
}

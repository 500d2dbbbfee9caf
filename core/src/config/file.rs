//! Configuration in a file: read again when it changes.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use super::source::{ConfigPublisher, ConfigSource};
use super::{CONFIG_BYTES_MAX, ServiceConfigError};
use crate::discovery::watched_file::WatchedFile;

/// The configuration of a service in a JSON file, looked at every second.
///
/// Write it anew beside the old one and rename it: a file that is read while it is half written is an error until it is whole. A file that is gone is a
/// configuration that is taken away.
#[derive(Clone, Debug)]
pub struct FileConfig {
    path: PathBuf,
}

impl FileConfig {
    /// The file at `path`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

impl ConfigSource for FileConfig {
    fn watch(&self, publisher: ConfigPublisher) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            let mut file = WatchedFile::new(&self.path, CONFIG_BYTES_MAX);
            loop {
                match file.changed().await {
                    Ok(text) => publisher.publish_json(&text),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => publisher.clear(),
                    Err(error) => publisher.fail(unreadable(&self.path, &error)),
                }
            }
        })
    }
}

fn unreadable(path: &Path, error: &io::Error) -> ServiceConfigError {
    ServiceConfigError::new(format!("{} cannot be read: {error}", path.display()))
}

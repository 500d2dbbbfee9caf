//! Configuration in a file: read again when it changes.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

use super::source::{ConfigPublisher, ConfigSource};
use super::{CONFIG_BYTES_MAX, ServiceConfig, ServiceConfigError};
use crate::discovery::watched_file::WatchedFile;

/// The configuration of a service in a JSON file, looked at every second.
///
/// Write it anew beside the old one and rename it: a file that is read while it is half written is an error until it is whole. So is a file that is not there,
/// or not any more, and what it said last stands; `{}` takes all of it back.
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
                let path = self.path.display();
                let read = file.changed().await.map_err(|error| format!("{path} cannot be read: {error}"));
                let parsed =
                    read.and_then(|text| ServiceConfig::from_json(&text).map_err(|error| format!("{path}: {error}")));
                match parsed {
                    Ok(config) => publisher.publish(config),
                    Err(message) => publisher.fail(ServiceConfigError::new(message)),
                }
            }
        })
    }
}

//! A file whose content is followed.
//!
//! It is looked at once a second: that works on every file system and through every kind of replacement (rename, symbolic link, mount), which
//! notifications of the system do not.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often a file is looked at.
const EVERY: Duration = Duration::from_secs(1);

/// Follows one file.
pub(crate) struct WatchedFile {
    path: PathBuf,
    bytes_max: usize,
    last: Option<Seen>,
}

/// What was there at the last look.
#[derive(PartialEq, Eq)]
enum Seen {
    Text(String),
    /// Why there was none.
    Failed(io::ErrorKind),
}

impl WatchedFile {
    pub(crate) fn new(path: &Path, bytes_max: usize) -> Self {
        Self {
            path: path.to_owned(),
            bytes_max,
            last: None,
        }
    }

    /// What is in the file: at once the first time, then whenever that is something else.
    ///
    /// # Cancel safety
    /// Cancel safe: what was not returned is returned the next time.
    pub(crate) async fn changed(&mut self) -> io::Result<String> {
        loop {
            if self.last.is_some() {
                tokio::time::sleep(EVERY).await;
            }
            let (path, bytes_max) = (self.path.clone(), self.bytes_max);
            let reading = tokio::task::spawn_blocking(move || read(&path, bytes_max));
            let found = reading.await.unwrap_or_else(|_| Err(io::Error::other("reading was interrupted")));
            let seen = match &found {
                Ok(text) => Seen::Text(text.clone()),
                Err(error) => Seen::Failed(error.kind()),
            };
            let is_same = self.last.as_ref() == Some(&seen);
            self.last = Some(seen);
            if !is_same {
                return found;
            }
        }
    }
}

/// What is in the file, if that is not too long.
pub(super) fn read(path: &Path, bytes_max: usize) -> io::Result<String> {
    let file = std::fs::File::open(path)?;
    let mut text = String::new();
    file.take(bytes_max as u64 + 1).read_to_string(&mut text)?;
    if text.len() > bytes_max {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has more than {bytes_max} bytes"),
        ));
    }
    Ok(text)
}

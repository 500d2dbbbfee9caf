//! A stream that is no company for calls, as long as this lives.

use std::fmt;

use super::connection::Connection;

/// A stream that is no company for others, for as long as this lives.
pub struct BackgroundStream(pub(super) Connection);

impl Drop for BackgroundStream {
    fn drop(&mut self) {
        self.0.lock().mux.remove_background_stream();
    }
}

impl fmt::Debug for BackgroundStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BackgroundStream")
    }
}

//! Connections that have an age: told to leave after it, so that clients spread anew over servers that came since, and look names up again.
//!
//! Source: gRFC A9.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use super::shutdown::Connections;

/// How far the age of one connection may differ from the others': those that were made together must not leave together.
const JITTER: f64 = 0.1;
/// The time that calls have to end by default, as at a shutdown.
pub(super) const GRACE_DEFAULT: Duration = Duration::from_secs(30);

/// The age of connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Age {
    pub(super) max: Duration,
    /// What runs has so long to end after that.
    pub(super) grace: Duration,
}

impl Age {
    /// Serves the connection `id` until its end, which `served` waits for.
    pub(super) async fn limit(self, served: impl Future<Output = ()>, connections: &Connections, id: u64) {
        let mut served = pin!(served);
        let max = self.max.mul_f64(1.0 - JITTER + 2.0 * JITTER * fastrand::f64());
        if tokio::time::timeout(max, &mut served).await.is_ok() {
            return;
        }
        connections.start_drain_of(id);
        if tokio::time::timeout(self.grace, &mut served).await.is_ok() {
            return;
        }
        connections.stop_one(id);
        served.await;
    }
}

//! Finds the endpoints of a target and publishes them as full lists.

use std::collections::HashSet;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::endpoint::Endpoint;
use crate::time;

/// Endpoints that a list may have; those after them are left out, and said so. A list is copied with every change, and balancers look at all of it.
pub const ENDPOINTS_MAX: usize = 16_384;

/// Finds the endpoints of one target, for as long as somebody calls it.
///
/// # Examples
/// ```
/// # mod sinew { pub use sinew_core::discovery::{Endpoint, Publisher, Resolver, ResolveError}; }
/// use std::future::Future;
/// use std::pin::Pin;
/// use std::time::Duration;
///
/// use sinew::{Endpoint, Publisher, Resolver, ResolveError};
///
/// /// Asks an inventory now and then.
/// struct Inventory;
///
/// async fn ask() -> Result<Vec<Endpoint>, std::io::Error> {
///     // ..
/// #   Ok(Vec::new())
/// }
///
/// impl Resolver for Inventory {
///     fn watch(&self, publisher: Publisher) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
///         Box::pin(async move {
///             loop {
///                 match ask().await {
///                     Ok(endpoints) => publisher.publish(endpoints),
///                     // Calls go on with the last list.
///                     Err(error) => publisher.fail(ResolveError::new("the inventory does not answer").with_source(error)),
///                 }
///                 tokio::time::sleep(Duration::from_secs(30)).await;
///             }
///         })
///     }
/// }
/// ```
pub trait Resolver: Send + Sync + 'static {
    /// Publishes a list, and another whenever it changes. It is dropped with the channel, and begun anew when its runtime went down. If it returns, the last
    /// list stands for good; if it panics, it is begun anew after a while.
    fn watch(&self, publisher: Publisher) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;

    /// How long it takes a registry that lost its entries by a fault of its own to have them again (default 15 s: a lease of 10 s, and 5 s to register
    /// anew). When more than half of a list vanishes within that time, endpoints that are connected and serve are kept until it is over, and
    /// beyond it for as long as they do; those that announced before that they leave, or are not connected, go at once. `None` for a source
    /// that means what it says, as a file does.
    fn removal_window(&self) -> Option<Duration> {
        Some(REMOVAL_WINDOW)
    }
}

/// The lease of 10 s that entries have by default, and the time to register anew.
const REMOVAL_WINDOW: Duration = Duration::from_secs(15);

/// Why endpoints could not be found.
#[derive(Clone, Debug)]
pub struct ResolveError {
    message: String,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl ResolveError {
    /// An error that says what went wrong.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            source: None,
        }
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for ResolveError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn Error + 'static))
    }
}

/// What is known about the endpoints of a target. An immutable snapshot.
#[derive(Clone, Debug)]
pub struct Resolution {
    /// Counts the lists; 0 is before the first.
    pub(crate) version: u64,
    pub(crate) endpoints: Arc<[Endpoint]>,
    /// When the list was confirmed last.
    pub(crate) confirmed: Instant,
    /// Why it could not be renewed since.
    pub(crate) failure: Option<ResolveError>,
    /// It comes from elsewhere than the registry, which could not be asked yet.
    pub(crate) stale: bool,
}

impl Resolution {
    fn none() -> Self {
        Self {
            version: 0,
            endpoints: Arc::from([]),
            confirmed: time::now(),
            failure: None,
            stale: false,
        }
    }

    /// Counts the lists that were published; 0 before the first.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// All endpoints.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// How long ago the list was confirmed.
    #[must_use]
    pub fn age(&self) -> Duration {
        time::now().saturating_duration_since(self.confirmed)
    }

    /// Why the list could not be renewed, if it could not.
    #[must_use]
    pub fn failure(&self) -> Option<&ResolveError> {
        self.failure.as_ref()
    }

    /// Whether the list is an old one of an earlier run, because the registry was not reached yet.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.stale
    }
}

/// The end of a resolver at which it publishes.
#[derive(Clone, Debug)]
pub struct Publisher {
    sender: Arc<watch::Sender<Resolution>>,
    wanted: Arc<Notify>,
}

/// The end at which lists are read.
#[derive(Clone, Debug)]
pub struct Resolutions {
    receiver: watch::Receiver<Resolution>,
    wanted: Arc<Notify>,
}

impl Publisher {
    /// A channel from a resolver to whoever follows it.
    #[must_use]
    pub fn channel() -> (Self, Resolutions) {
        let (sender, receiver) = watch::channel(Resolution::none());
        let wanted = Arc::<Notify>::default();
        let publisher = Self {
            sender: Arc::new(sender),
            wanted: Arc::clone(&wanted),
        };
        (publisher, Resolutions { receiver, wanted })
    }

    /// Publishes the full list. An empty one is taken for a failure of the registry, and the last one stands: a service of which nobody is left cannot be
    /// called with either, and a registry that forgot everything must not take down what still runs. Of two endpoints of one name the later one
    /// counts; those above [`ENDPOINTS_MAX`] are left out.
    pub fn publish(&self, endpoints: Vec<Endpoint>) {
        self.put(endpoints, false);
    }

    /// Publishes a list that was not confirmed by the registry: better than none until that is reached.
    pub fn publish_stale(&self, endpoints: Vec<Endpoint>) {
        self.put(endpoints, true);
    }

    fn put(&self, endpoints: Vec<Endpoint>, stale: bool) {
        if endpoints.is_empty() {
            return self.fail(ResolveError::new("the registry lists no endpoint"));
        }
        let (endpoints, failure) = tidied(endpoints);
        self.sender.send_modify(|resolution| {
            if *resolution.endpoints != *endpoints {
                resolution.endpoints = Arc::from(endpoints);
                resolution.version += 1;
            }
            resolution.confirmed = time::now();
            resolution.failure = failure;
            resolution.stale = stale;
        });
    }

    /// Publishes what another resolver did.
    pub(crate) fn pass_on(&self, list: &Resolution) {
        self.sender.send_modify(|resolution| {
            if list.version > 0 {
                if resolution.endpoints != list.endpoints {
                    resolution.endpoints = Arc::clone(&list.endpoints);
                    resolution.version += 1;
                }
                resolution.confirmed = list.confirmed;
                resolution.stale = list.stale;
            }
            resolution.failure.clone_from(&list.failure);
        });
    }

    /// Tells that the list is confirmed as it is.
    pub fn confirm(&self) {
        self.sender.send_modify(|resolution| {
            resolution.confirmed = time::now();
            resolution.failure = None;
        });
    }

    /// Tells that the list could not be renewed; the last one stands.
    pub fn fail(&self, error: ResolveError) {
        tracing::debug!(%error, "endpoints cannot be resolved");
        self.sender.send_modify(|resolution| resolution.failure = Some(error));
    }

    /// Resolves when a new list is wanted, because nobody of the last one can be reached: for resolvers that ask now and then. Not more often than the registry
    /// bears, which is for them to see to.
    ///
    /// # Cancel safety
    /// Cancel safe: a wish is kept.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Resolves when nobody follows any more.
    pub async fn closed(&self) {
        self.sender.closed().await;
    }
}

/// One endpoint of each name, and as many as may be.
fn tidied(endpoints: Vec<Endpoint>) -> (Vec<Endpoint>, Option<ResolveError>) {
    let all = endpoints.len();
    let mut names = HashSet::with_capacity(all);
    // From the back, so that the later one of a name stays.
    let mut kept: Vec<Endpoint> =
        endpoints.into_iter().rev().filter(|endpoint| names.insert(endpoint.name().to_owned())).collect();
    kept.reverse();
    let failure = (kept.len() > ENDPOINTS_MAX).then(|| {
        let left_out = kept.len() - ENDPOINTS_MAX;
        ResolveError::new(format!(
            "{left_out} endpoints are left out: a list has at most {ENDPOINTS_MAX}"
        ))
    });
    kept.truncate(ENDPOINTS_MAX);
    (kept, failure)
}

impl Resolutions {
    /// The latest list.
    #[must_use]
    pub fn latest(&mut self) -> Resolution {
        self.receiver.borrow_and_update().clone()
    }

    /// Asks for a new list, because nobody of the last one can be reached.
    pub fn want(&self) {
        self.wanted.notify_one();
    }

    /// Waits for a later one; false if the resolver is gone, and none will come.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is lost.
    pub async fn changed(&mut self) -> bool {
        self.receiver.changed().await.is_ok()
    }
}

/// A list that never changes: `static:///host:port,host:port`.
#[derive(Clone, Debug)]
pub struct FixedList(Vec<Endpoint>);

impl FixedList {
    /// Always these endpoints.
    #[must_use]
    pub fn new(endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        Self(endpoints.into_iter().collect())
    }
}

impl Resolver for FixedList {
    fn watch(&self, publisher: Publisher) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        publisher.publish(self.0.clone());
        Box::pin(std::future::ready(()))
    }

    fn removal_window(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{ENDPOINTS_MAX, Publisher, ResolveError};
    use crate::discovery::Endpoint;

    fn endpoint(name: &str) -> Endpoint {
        Endpoint::new("mem:x".parse().unwrap()).with_name(name)
    }

    fn many(count: usize) -> Vec<Endpoint> {
        (0..count).map(|number| endpoint(&number.to_string())).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_list_is_a_failure_and_the_last_one_stands() {
        let (publisher, mut resolutions) = Publisher::channel();
        publisher.publish(Vec::new());
        let none = resolutions.latest();
        assert_eq!((none.version(), none.endpoints().len()), (0, 0));
        assert!(none.failure().unwrap().to_string().contains("lists no endpoint"));
        publisher.publish(many(2));
        publisher.publish(Vec::new());
        let kept = resolutions.latest();
        assert_eq!((kept.version(), kept.endpoints().len()), (1, 2));
        assert!(kept.failure().is_some());
        // The same list again is no new version, and no failure any more.
        tokio::time::advance(std::time::Duration::from_secs(7)).await;
        assert_eq!(kept.age().as_secs(), 7);
        publisher.publish(many(2));
        let confirmed = resolutions.latest();
        assert_eq!((confirmed.version(), confirmed.age().as_secs()), (1, 0));
        assert!(confirmed.failure().is_none());
    }

    #[test]
    fn the_latest_wins_and_is_told() {
        let (publisher, mut resolutions) = Publisher::channel();
        publisher.publish(many(1));
        publisher.publish(many(3));
        publisher.fail(ResolveError::new("gone"));
        let latest = resolutions.latest();
        assert_eq!((latest.version(), latest.endpoints().len()), (2, 3));
        assert_eq!(latest.failure().unwrap().to_string(), "gone");
    }

    #[test]
    fn names_are_unique_and_lists_bounded() {
        let (publisher, mut resolutions) = Publisher::channel();
        publisher.publish(vec![endpoint("a"), endpoint("b"), endpoint("a").with_weight(7)]);
        let latest = resolutions.latest();
        let shown: Vec<_> = latest.endpoints().iter().map(|one| (one.name(), one.weight())).collect();
        assert_eq!(shown, [("b", 100), ("a", 7)]);
        for (count, kept) in [
            (ENDPOINTS_MAX - 1, ENDPOINTS_MAX - 1),
            (ENDPOINTS_MAX, ENDPOINTS_MAX),
            (ENDPOINTS_MAX + 1, ENDPOINTS_MAX),
        ] {
            publisher.publish(many(count));
            let latest = resolutions.latest();
            assert_eq!(latest.endpoints().len(), kept);
            assert_eq!(latest.failure().is_some(), count > ENDPOINTS_MAX);
        }
    }
}

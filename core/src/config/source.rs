//! Where configuration comes from: one way, whole, the latest wins.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;

use super::{ServiceConfig, ServiceConfigError};

/// Follows the configuration of one service at one place, for as long as somebody calls or serves it.
///
/// # Examples
/// ```
/// # mod sinew { pub use sinew_core::config::{ConfigPublisher, ConfigSource}; }
/// use std::future::Future;
/// use std::pin::Pin;
///
/// use sinew::{ConfigPublisher, ConfigSource};
///
/// /// What the control room says, as JSON.
/// struct ControlRoom(tokio::sync::watch::Receiver<String>);
///
/// impl ConfigSource for ControlRoom {
///     fn watch(&self, publisher: ConfigPublisher) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
///         Box::pin(async move {
///             let mut said = self.0.clone();
///             loop {
///                 let text = said.borrow_and_update().clone();
///                 publisher.publish_json(&text);
///                 if said.changed().await.is_err() {
///                     return;
///                 }
///             }
///         })
///     }
/// }
/// ```
pub trait ConfigSource: Send + Sync + 'static {
    /// Publishes the configuration, and again whenever it changes. It is dropped with the channel or the server, and begun anew when the channel's runtime
    /// went down. If it returns, what it said last stands.
    fn watch(&self, publisher: ConfigPublisher) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// What a source said last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    /// The last that could be read; shared, because it is looked at with each change of any layer.
    pub(crate) config: Arc<ServiceConfig>,
    /// Why there is none that is newer.
    pub(crate) failure: Option<ServiceConfigError>,
    /// It has said something: a configuration, that there is none, or that it could not be read.
    pub(crate) is_known: bool,
}

/// The end of a source at which it publishes.
#[derive(Clone, Debug)]
pub struct ConfigPublisher {
    sender: Arc<watch::Sender<Vec<Said>>>,
    /// Which of the layers it is.
    layer: usize,
}

impl ConfigPublisher {
    /// A channel from sources to whoever follows them all: what each said before, the lowest first.
    pub(crate) fn channel(before: Vec<Said>) -> (Vec<Self>, watch::Receiver<Vec<Said>>) {
        let layers = 0..before.len();
        let (sender, receiver) = watch::channel(before);
        let sender = Arc::new(sender);
        let publisher = |layer| Self {
            sender: Arc::clone(&sender),
            layer,
        };
        (layers.map(publisher).collect(), receiver)
    }

    /// Changes what this source says, if that is news.
    fn say(&self, change: impl FnOnce(&mut Said) -> bool) {
        self.sender.send_if_modified(|all| all.get_mut(self.layer).is_some_and(change));
    }

    /// Publishes the whole configuration.
    pub fn publish(&self, config: ServiceConfig) {
        self.say(|said| {
            let is_news = *said.config != config || said.failure.is_some() || !said.is_known;
            *said = Said {
                config: Arc::new(config),
                failure: None,
                is_known: true,
            };
            is_news
        });
    }

    /// Publishes a configuration in its JSON form. One that cannot be read is a failure, and the last one stands.
    pub fn publish_json(&self, text: &str) {
        match ServiceConfig::from_json(text) {
            Ok(config) => self.publish(config),
            Err(error) => self.fail(error),
        }
    }

    /// Tells that there is none: what lies below counts.
    pub fn clear(&self) {
        self.publish(ServiceConfig::new());
    }

    /// Tells that it could not be read; the last one stands.
    pub fn fail(&self, error: ServiceConfigError) {
        self.say(|said| {
            let is_news = said.failure.as_ref() != Some(&error);
            if is_news {
                tracing::warn!(%error, "a service's configuration cannot be used; the last one stands");
            }
            said.failure = Some(error);
            said.is_known = true;
            is_news
        });
    }

    /// Resolves when nobody follows any more.
    pub async fn closed(&self) {
        self.sender.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{ConfigPublisher, Said, ServiceConfig};

    #[test]
    fn the_last_that_can_be_read_stands() {
        let (mut publishers, mut said) = ConfigPublisher::channel(vec![Said::default()]);
        let publisher = publishers.remove(0);
        assert!(!said.borrow_and_update()[0].is_known);
        publisher.publish_json(r#"{"timeout": "2s"}"#);
        publisher.publish_json(r#"{"timeout": "soon"}"#);
        let now = said.borrow_and_update()[0].clone();
        assert_eq!(*now.config, ServiceConfig::new().timeout(Duration::from_secs(2)));
        assert!(now.failure.unwrap().to_string().contains("`timeout`"));
        // What is the same is no news.
        publisher.publish_json(r#"{"timeout": "soon"}"#);
        assert!(!said.has_changed().unwrap());
        publisher.clear();
        assert_eq!(*said.borrow_and_update()[0].config, ServiceConfig::new());
    }
}

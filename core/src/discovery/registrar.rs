//! Keeps a registry in accordance with what an instance says of itself.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;

use super::endpoint::{Endpoint, EndpointState};

/// Registers an instance, for as long as it serves.
pub trait Registrar: Send + Sync + 'static {
    /// Makes the registry say what is announced, whatever happens to the registry, and returns when the end of the announcements is carried out: the instance is
    /// in no list any more. Dropping it leaves behind what only a time-out can clear up.
    fn register(&self, announcements: Announcements) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;

    /// Says what is wrong with an announcement before a server begins to serve (default: nothing).
    ///
    /// # Errors
    /// What would make it useless in this registry.
    fn check(&self, announcement: &Announcement) -> Result<(), RegistrarError> {
        let _anything_goes = announcement;
        Ok(())
    }
}

/// Why an instance cannot be registered as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RegistrarError {
    message: String,
}

impl RegistrarError {
    /// An error that says what to do.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
        }
    }
}

/// What an instance says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    services: Arc<[String]>,
    endpoint: Endpoint,
}

impl Announcement {
    /// An instance that serves `services`.
    #[must_use]
    pub fn new(services: impl IntoIterator<Item = String>, endpoint: Endpoint) -> Self {
        Self {
            services: services.into_iter().collect(),
            endpoint,
        }
    }

    /// The names of the services.
    #[must_use]
    pub fn services(&self) -> &[String] {
        &self.services
    }

    /// The instance.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

/// The announcements of an instance: one way, the latest wins. They end when the instance is to be in no list any more.
#[derive(Clone, Debug)]
pub struct Announcements {
    receiver: watch::Receiver<Option<Announcement>>,
}

/// The end at which an instance announces.
#[derive(Debug)]
pub struct Announcer {
    sender: watch::Sender<Option<Announcement>>,
}

impl Announcer {
    /// An instance that announces itself.
    #[must_use]
    pub fn new(announcement: Announcement) -> Self {
        Self {
            sender: watch::Sender::new(Some(announcement)),
        }
    }

    /// A registrar's end.
    #[must_use]
    pub fn subscribe(&self) -> Announcements {
        Announcements {
            receiver: self.sender.subscribe(),
        }
    }

    /// Says that the instance takes no new calls.
    pub fn drain(&self) {
        self.sender.send_modify(|announcement| {
            if let Some(announcement) = announcement {
                announcement.endpoint = announcement.endpoint.clone().with_state(EndpointState::Draining);
            }
        });
    }

    /// Says that the instance is gone.
    pub fn withdraw(&self) {
        self.sender.send_replace(None);
    }
}

impl Announcements {
    /// The latest; `None` if the instance is to be in no list any more.
    #[must_use]
    pub fn latest(&mut self) -> Option<Announcement> {
        match self.receiver.has_changed() {
            Ok(_) => self.receiver.borrow_and_update().clone(),
            // The instance is gone, without a word.
            Err(_) => None,
        }
    }

    /// Waits for a later one.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is lost.
    pub async fn changed(&mut self) {
        // An error is a change, too: the announcer is gone.
        let _gone = self.receiver.changed().await;
    }
}

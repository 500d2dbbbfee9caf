//! A running server's place in registries: entered once it serves, marked when it is about to leave, taken out before it does.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::error::ServerError;
use crate::discovery::registrar::Announcer;
use crate::discovery::supervised::persist;
use crate::discovery::{Announcement, Announcements, Instance, Registrar, RegistrarError};
use crate::policy::backoff::Backoff;
use crate::transport::Address;
use crate::transport::error::BindError;

/// Time that registries have to take an instance out. One that cannot be reached keeps it until its lease is over, and clients find out by themselves.
const WITHDRAW_TIMEOUT: Duration = Duration::from_secs(3);

/// Where a server is to be registered, and as what.
#[derive(Default)]
pub(super) struct RegistrationConfig {
    pub(super) registrars: Vec<Arc<dyn Registrar>>,
    pub(super) instance: Instance,
}

/// A server's place in its registries. Dropping it leaves it to their time-outs.
pub(super) struct Registration {
    announcer: Announcer,
    registrars: Vec<JoinHandle<()>>,
}

impl RegistrationConfig {
    /// Registers a server of `services` that listens on `bound`.
    ///
    /// # Errors
    /// What it would say is wrong; nothing is registered then.
    pub(super) fn start(
        self,
        services: impl IntoIterator<Item = String>,
        bound: &[Address],
    ) -> Result<Option<Registration>, ServerError> {
        if self.registrars.is_empty() {
            return Ok(None);
        }
        let announcement = Announcement::new(services, self.instance.endpoint(bound).map_err(BindError::from)?);
        if announcement.services().is_empty() {
            return Err(RegistrarError::new(
                "the server has a fallback alone, so there is no name to register it under",
            )
            .into());
        }
        for registrar in &self.registrars {
            registrar.check(&announcement)?;
        }
        let announcer = Announcer::new(announcement);
        let registrars =
            self.registrars.into_iter().map(|registrar| tokio::spawn(run(registrar, announcer.subscribe())));
        Ok(Some(Registration {
            registrars: registrars.collect(),
            announcer,
        }))
    }
}

impl Registration {
    /// How many registries it keeps.
    pub(super) fn registries(&self) -> usize {
        self.registrars.len()
    }

    /// Tells clients to make their new calls elsewhere.
    pub(super) fn drain(&self) {
        self.announcer.drain();
    }

    /// Takes the server out, within a bound.
    pub(super) async fn withdraw(mut self) {
        self.announcer.withdraw();
        let all = async {
            for registrar in &mut self.registrars {
                // It ends by itself, or was stopped.
                let _ended = registrar.await;
            }
        };
        if tokio::time::timeout(WITHDRAW_TIMEOUT, all).await.is_err() {
            tracing::warn!("a registry did not take the server out in time; its lease will end by itself");
        }
    }
}

/// Runs a registrar; one that panics is begun anew.
async fn run(registrar: Arc<dyn Registrar>, announcements: Announcements) {
    let register = || {
        let (registrar, announcements) = (Arc::clone(&registrar), announcements.clone());
        async move { registrar.register(announcements).await }
    };
    let panicked = || tracing::error!("a registrar panicked; it is begun anew after a while");
    persist(Backoff::DEFAULT, register, panicked).await;
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registrars.iter().for_each(JoinHandle::abort);
    }
}

impl fmt::Debug for RegistrationConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistrationConfig")
            .field("registrars", &self.registrars.len())
            .field("instance", &self.instance)
            .finish()
    }
}

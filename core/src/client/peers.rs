//! The other clients of a service: this one is entered among them, and knows its place.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::on_demand::resolve;
use crate::discovery::registrar::Announcer;
use crate::discovery::supervised::{Task, persist};
use crate::discovery::{Announcement, Aperture, Endpoint, Publisher, Resolutions};
use crate::policy::aperture::Place;
use crate::policy::backoff::Backoff;

/// The time between two changes of place, at random by half of it: while clients are replaced one after the other, connections are not to move with each of them.
const SETTLES: Duration = Duration::from_secs(5);
/// The same before the first place: clients that start together find each other meanwhile.
const FIRST_SETTLES: Duration = Duration::from_secs(1);
/// How long a list is doubted that has less than half of the clients it had.
const DOUBTED: Duration = Duration::from_secs(15);

/// All clients of a service, while this one is entered among them. Dropping it leaves the entry to the registry's time-out.
pub(super) struct Peers {
    /// What this client is called there.
    id: String,
    lists: Resolutions,
    /// By the last list; `None` if it is not in it, or not yet.
    now: Option<Place>,
    /// What was told.
    place: Option<Place>,
    /// The last list has less than half of the clients that there were.
    is_doubted: bool,
    /// The place is not to change before.
    settled_at: Instant,
    _announcer: Announcer,
    _tasks: [Task; 2],
}

impl Peers {
    /// Enters this client, which `seed` tells from others.
    pub(super) fn join(aperture: &Aperture, seed: u64, backoff: Backoff) -> Self {
        let id = format!("{seed:016x}");
        let client = Endpoint::with_addresses([]).with_name(&id).with_instance(&id);
        let announcer = Announcer::new(Announcement::new([aperture.name.clone()], client));
        let (registrar, announcements) = (Arc::clone(&aperture.registrar), announcer.subscribe());
        let register = move || {
            let (registrar, announcements) = (Arc::clone(&registrar), announcements.clone());
            async move { registrar.register(announcements).await }
        };
        let (publisher, lists) = Publisher::channel();
        let entering = async move {
            let panicked = || tracing::error!("the registrar of clients panicked; it is begun anew after a while");
            persist(backoff, register, panicked).await;
        };
        let finding = resolve(Arc::clone(&aperture.resolver), publisher, backoff);
        Self {
            id,
            lists,
            now: None,
            place: None,
            is_doubted: false,
            settled_at: Instant::now() + FIRST_SETTLES,
            _announcer: announcer,
            _tasks: [Task::new(tokio::spawn(entering)), Task::new(tokio::spawn(finding))],
        }
    }

    /// Waits until this client has another place.
    ///
    /// # Cancel safety
    /// Cancel safe: a list can be looked at again.
    pub(super) async fn moved(&mut self) -> Place {
        loop {
            let is_new = self.now.is_some() && self.now != self.place;
            if let Some(place) = self.now.filter(|_| is_new && Instant::now() >= self.settled_at) {
                self.place = Some(place);
                // At random, since all clients learn of a change at once.
                self.settled_at = Instant::now() + SETTLES.mul_f64(0.5 + fastrand::f64());
                return place;
            }
            tokio::select! {
                is_there = self.lists.changed() => match is_there {
                    true => self.look(),
                    // Nobody tells any more: the place stays.
                    false => return std::future::pending().await,
                },
                () = tokio::time::sleep_until(self.settled_at), if is_new => {}
            }
        }
    }

    /// Finds itself in the last list.
    fn look(&mut self) {
        let list = self.lists.latest();
        if let Some(failure) = list.failure() {
            tracing::debug!(%failure, "the other clients cannot be found for the moment");
        }
        let mut ids: Vec<&str> = list.endpoints().iter().map(Endpoint::instance).collect();
        ids.sort_unstable();
        ids.dedup();
        let clients = ids.len();
        self.now = ids.binary_search(&self.id.as_str()).ok().map(|index| Place { index, clients });
        let is_doubtful = self.place.is_some_and(|place| 2 * clients < place.clients);
        if is_doubtful && !std::mem::replace(&mut self.is_doubted, is_doubtful) {
            // A registry that lost its leases looks like that; they are back within a few seconds.
            self.settled_at = self.settled_at.max(Instant::now() + DOUBTED);
        }
        self.is_doubted = is_doubtful;
    }
}

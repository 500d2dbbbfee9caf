//! Where the instances of a service are: who finds them, who announces them, and the words for both.
//!
//! A [`Resolver`] publishes the full list of endpoints as an immutable snapshot, one way, the latest wins; whoever owns the channel only reads. A
//! [`Registrar`] is its mirror: it reads what an instance says of itself, and keeps a registry in accordance.
//!
//! Not here: connecting to endpoints and choosing between them (`client`).

pub(crate) mod aperture;
#[cfg(feature = "dns")]
pub mod dns;
pub mod endpoint;
#[cfg(feature = "etcd")]
pub mod etcd;
pub mod file;
mod instance;
pub mod memory;
mod record;
pub(crate) mod nearest;
pub mod registrar;
pub mod resolver;
pub(crate) mod saved;
pub(crate) mod supervised;
pub(crate) mod watched_file;

pub use aperture::Aperture;
#[cfg(feature = "dns")]
pub use dns::DnsResolver;
pub use endpoint::{Endpoint, EndpointState};
#[cfg(feature = "etcd")]
pub use etcd::{Etcd, EtcdError, EtcdResolver};
pub use file::FileResolver;
pub use instance::Instance;
pub use memory::{MemRegistry, MemResolver};
pub use registrar::{Announcement, Announcements, Registrar, RegistrarError};
pub use resolver::{FixedList, Publisher, Resolution, Resolutions, ResolveError, Resolver};

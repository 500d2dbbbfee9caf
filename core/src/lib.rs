//! The runtime of sinew, in floors: a unit names only units above it in this list.
//!
//! Nothing is re-exported here: the facade `sinew` picks what users see, and a path in this crate says where it leads.

pub mod code;
pub mod metadata;
pub mod priority;
pub mod status;
pub mod time;
pub mod method;
pub mod context;
pub mod policy;
pub mod wire;
pub mod mux;
pub mod transport;
pub mod message;
pub mod interceptor;
pub mod faults;
pub mod service;
pub mod call;
pub mod health;
pub mod discovery;
pub mod config;
pub mod client;
pub mod server;
pub mod local;

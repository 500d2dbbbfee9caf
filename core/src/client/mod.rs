//! The side that makes calls.
//!
//! A [`Channel`] is what generated clients hold: cheap to clone, connected when first needed, reconnected by itself. A [`Call`] is one
//! call before it is made; awaiting it takes the short way ([`future`]) when the connection is ready and nothing special is asked for, and the
//! general way ([`attempt`]) otherwise.

mod accounts;
pub mod attempt;
pub mod balancer;
pub mod builder;
pub mod call;
pub mod channel;
mod choosing;
mod ejection;
mod extra_connections;
mod faults;
pub mod future;
mod governance;
pub mod health;
mod hedge;
mod member;
mod members;
mod on_demand;
mod peers;
mod periodic;
mod pool;
pub mod raw;
mod removals;
mod retry;
pub mod snapshot;
pub mod state;
mod subchannel;
mod target;

pub use crate::policy::reported::LoadReport;
pub use balancer::{
    Balancer, Candidate, ConnectsTo, ConsistentHash, LeastRequest, PeakEwma, PickArgs, PickFirst, Picker, RoundRobin,
    WeightedRoundRobin,
};
pub use builder::ChannelBuilder;
pub use call::{Call, CallMeta, CallWithMeta};
pub use channel::{Channel, LocalCalls};
pub use future::{CallFuture, MetaFuture};
pub use health::{HealthCheck, HealthStatuses};
pub use raw::RawRequest;
pub use snapshot::{ChannelSnapshot, EndpointSnapshot, ListSnapshot, MethodSnapshot};
pub use state::{ConnectivityState, StateChanges};
pub use subchannel::Connector;

#[cfg(test)]
mod tests;

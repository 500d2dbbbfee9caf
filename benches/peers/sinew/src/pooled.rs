//! The `sinew` peer as a service of so many endpoints, all of them this one server, with the default balancer.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::Result;
use sinew::{Balancer, Candidate, Channel, ConnectsTo, Endpoint, FixedList, PeakEwma, Picker, ServerBuilder};

use crate::caller;

pub(crate) struct Pooled<const ENDPOINTS: usize>;

/// The default balancer, connected to all endpoints, however many there are.
#[derive(Debug)]
struct Everybody;

impl Balancer for Everybody {
    fn picker(&self, ready: &[Candidate]) -> Arc<dyn Picker> {
        PeakEwma.picker(ready)
    }

    fn connects_to(&self) -> ConnectsTo {
        ConnectsTo::Everybody
    }
}

impl<const ENDPOINTS: usize> caller::Transport for Pooled<ENDPOINTS> {
    const SCHEME: &'static str = "tcp";

    fn listen(builder: ServerBuilder, listener: TcpListener) -> Result<ServerBuilder> {
        Ok(builder.listener(listener))
    }

    async fn channel(server: SocketAddr) -> Result<Channel> {
        let address: sinew::Address = format!("{}://{server}", Self::SCHEME).parse()?;
        let endpoints = (0..ENDPOINTS).map(|number| Endpoint::new(address.clone()).with_name(number.to_string()));
        Ok(Channel::builder().resolver(FixedList::new(endpoints)).balancer(Everybody).connect("Bench").await?)
    }
}

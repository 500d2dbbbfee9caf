//! The `sinew` peer as a service of one endpoint: what the choice among many is compared with.

mod caller;

use std::net::{SocketAddr, TcpListener};

use anyhow::Result;
use sinew::{Channel, Endpoint, FixedList, ServerBuilder};

struct Service;

impl caller::Transport for Service {
    const SCHEME: &'static str = "tcp";

    fn listen(builder: ServerBuilder, listener: TcpListener) -> Result<ServerBuilder> {
        Ok(builder.listener(listener))
    }

    async fn channel(server: SocketAddr) -> Result<Channel> {
        let address: sinew::Address = format!("tcp://{server}").parse()?;
        let endpoints = (0..1).map(|number| Endpoint::new(address.clone()).with_name(number.to_string()));
        Ok(Channel::builder().resolver(FixedList::new(endpoints)).connect("Bench").await?)
    }
}

fn main() -> std::process::ExitCode {
    load::run::<caller::Caller<Service>>()
}

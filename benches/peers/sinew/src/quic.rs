//! The `sinew-quic` peer: the same over QUIC, out of development certificates, at the UDP port of the same number.

mod caller;

use std::net::TcpListener;

use anyhow::Result;
use sinew::ServerBuilder;

struct Quic;

impl caller::Transport for Quic {
    const SCHEME: &'static str = "quic";

    fn listen(builder: ServerBuilder, listener: TcpListener) -> Result<ServerBuilder> {
        Ok(builder.bind(format!("quic://{}", listener.local_addr()?)))
    }
}

fn main() -> std::process::ExitCode {
    load::run::<caller::Caller<Quic>>()
}

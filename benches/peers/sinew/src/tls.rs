//! The `sinew-tls` peer: the same with TLS 1.3, out of development certificates.

mod caller;

use std::net::TcpListener;

use anyhow::Result;
use sinew::ServerBuilder;

struct Tls;

impl caller::Transport for Tls {
    const SCHEME: &'static str = "tls";

    fn listen(builder: ServerBuilder, listener: TcpListener) -> Result<ServerBuilder> {
        Ok(builder.tls_listener(listener))
    }
}

fn main() -> std::process::ExitCode {
    load::run::<caller::Caller<Tls>>()
}

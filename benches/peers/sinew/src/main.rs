//! The `sinew` peer, in clear text.

mod caller;

use std::net::TcpListener;

use anyhow::Result;
use sinew::ServerBuilder;

struct ClearText;

impl caller::Transport for ClearText {
    const SCHEME: &'static str = "tcp";

    fn listen(builder: ServerBuilder, listener: TcpListener) -> Result<ServerBuilder> {
        Ok(builder.listener(listener))
    }
}

fn main() -> std::process::ExitCode {
    load::run::<caller::Caller<ClearText>>()
}

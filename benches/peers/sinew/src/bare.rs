//! `sinew` with everything off that is on by default to keep calls from harm: what that costs is the difference.

mod caller;

use std::net::{SocketAddr, TcpListener};

use anyhow::Result;
use sinew::{AdaptiveThrottle, Channel, OutlierDetection, RetryPolicy, ServerBuilder};

struct Bare;

impl caller::Transport for Bare {
    const SCHEME: &'static str = "tcp";

    fn listen(builder: ServerBuilder, listener: TcpListener) -> Result<ServerBuilder> {
        Ok(builder.adaptive_concurrency(false).report_load(false).listener(listener))
    }

    async fn channel(server: SocketAddr) -> Result<Channel> {
        let builder = Channel::builder()
            .retry(RetryPolicy::NEVER)
            .throttle(AdaptiveThrottle::NEVER)
            .outlier_detection(OutlierDetection::NEVER);
        Ok(builder.connect(&format!("{}://{server}", Self::SCHEME)).await?)
    }
}

fn main() -> std::process::ExitCode {
    load::run::<caller::Caller<Bare>>()
}

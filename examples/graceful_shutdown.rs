//! An orderly end: SIGTERM or ctrl-c lets running calls finish, takes no new ones, and is bounded in time.

use std::sync::Arc;

use sinew::{Code, ConnectivityState, Drain, HandlerRan, Server, Status, service};
use tokio::sync::Notify;

/// Something that takes a while.
#[service]
pub trait Oven {
    /// Bakes until the bell rings.
    async fn bake(&self) -> String;
}

#[derive(Clone, Default)]
struct Stove {
    baking: Arc<Notify>,
    bell: Arc<Notify>,
}

impl Oven for Stove {
    async fn bake(&self) -> String {
        self.baking.notify_one();
        self.bell.notified().await;
        "bread".to_owned()
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let stove = Stove::default();
    // Nothing watches this server, so it need not play the lame duck first; what still runs after 20 s is ended.
    let drain = Drain::default().lame_duck("0s").within("20s");
    let server = Server::builder()
        .service(OvenServer::new(stove.clone()))
        .bind("127.0.0.1:0")
        .drain(drain)
        .shutdown_on_signals()
        .start()
        .await?;
    let oven = OvenClient::connect(&server.target()).await?;
    let mut states = oven.channel().states();
    assert_eq!(states.next().await, Some(ConnectivityState::Ready));

    // In a program of its own this is all: `builder.serve().await`.
    let serving = tokio::spawn(server.wait());
    let bread = tokio::spawn(oven.bake().into_future());
    stove.baking.notified().await;
    terminate_this_process()?;

    // The client is told to go elsewhere, and the listener is closed: a new call fails, and says that it did not run.
    assert_ne!(states.next().await, Some(ConnectivityState::Ready));
    let refused: Result<String, Status> = oven.bake().await;
    assert!(refused.is_err_and(|status| status.code() == Code::Unavailable && status.handler_ran() == HandlerRan::No));

    // The call that was running is answered all the same, and then the server is done.
    stove.bell.notify_one();
    assert_eq!(bread.await??, "bread");
    serving.await??;
    Ok(())
}

/// What an orchestrator does.
fn terminate_this_process() -> Result<(), std::io::Error> {
    std::process::Command::new("sh").args(["-c", "kill -TERM $PPID"]).status()?;
    Ok(())
}

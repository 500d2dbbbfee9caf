//! Deadlines: of a method, of a call, and of everything that a call sets off.

use std::future::pending;
use std::time::Duration;

use sinew::{Code, Cx, Server, Status, service};

/// Takes its time.
#[service]
pub trait Slow {
    /// Never answers; the method's deadline ends it.
    #[rpc(timeout = "50ms")]
    async fn never(&self) -> u64;
    /// What is left of the caller's time.
    async fn time_left(&self, cx: &Cx) -> Option<Duration>;
}

/// Calls [`Slow`].
#[service]
pub trait Front {
    /// Asks [`Slow::time_left`] behind it.
    async fn time_left_behind(&self) -> Result<Option<Duration>, Status>;
}

struct Sloth;

impl Slow for Sloth {
    async fn never(&self) -> u64 {
        // When the deadline passes, this future is dropped here.
        pending().await
    }

    async fn time_left(&self, cx: &Cx) -> Option<Duration> {
        cx.time_left()
    }
}

struct Desk {
    slow: SlowClient,
}

impl Front for Desk {
    async fn time_left_behind(&self) -> Result<Option<Duration>, Status> {
        // Nothing is passed by hand: the call inherits what is left of the one that is being answered.
        self.slow.time_left().await
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let back = Server::builder().service(SlowServer::new(Sloth)).bind("127.0.0.1:0").start().await?;
    let slow = SlowClient::connect(&back.target()).await?;
    let desk = FrontServer::new(Desk { slow: slow.clone() });
    let front = Server::builder().service(desk).bind("127.0.0.1:0").start().await?;
    let desk = FrontClient::connect(&front.target()).await?;

    // The method's own, and a shorter one of the call.
    let code = |status: Status| status.code();
    assert_eq!(slow.never().await.map_err(code), Err(Code::DeadlineExceeded));
    let shorter = slow.never().timeout("5ms").await;
    assert_eq!(shorter.map_err(code), Err(Code::DeadlineExceeded));

    // Every unary call has one: 10 s unless something else is said.
    let default = Duration::from_secs(10);
    assert!(slow.time_left().await?.is_some_and(|left| left <= default));
    assert_eq!(slow.time_left().detached().await?, None);

    // Two hops away, the caller's deadline still holds.
    let whole = Duration::from_secs(5);
    let left = desk.time_left_behind().timeout(whole).await?;
    assert!(left.is_some_and(|left| left <= whole), "{left:?}");

    // Text that is no duration ends the call before it begins.
    let wrong = slow.never().timeout("soon").await;
    assert_eq!(wrong.map_err(code), Err(Code::InvalidArgument));
    Ok(())
}

//! What the tests share: servers and channels over every kind of byte stream, a peer that speaks the wire by hand, child processes.
//!
//! Only the facade `sinew` is used, so a test sees what a user sees.

pub(crate) mod certs;
pub(crate) mod child;
pub(crate) mod cut;
pub(crate) mod fixture;
pub(crate) mod frames;
pub(crate) mod hand;
pub(crate) mod probe;
pub(crate) mod relay;

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

/// Far more than any test here takes: a test that hangs fails instead, and names itself.
const HANG: Duration = Duration::from_secs(120);

/// Runs `test`, and fails if it hangs.
pub(crate) async fn bounded<T>(test: impl Future<Output = T>) -> T {
    let limit = HANG + outage(Duration::ZERO);
    match tokio::time::timeout(limit, test).await {
        Ok(result) => result,
        Err(_) => panic!("the test hangs: it did not end within {limit:?}"),
    }
}

/// How long a registry is to be down: `at_least`, or as long as `SINEW_OUTAGE_SECONDS` says.
pub(crate) fn outage(at_least: Duration) -> Duration {
    let asked = std::env::var("SINEW_OUTAGE_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    asked.map_or(at_least, |seconds| at_least.max(Duration::from_secs(seconds)))
}

/// Waits until `condition` holds; for gauges, which nobody announces. Fails if it never does.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(20), waiting).await.is_err() {
        panic!("it never came true that {what}");
    }
}

/// Polls a future once, as `select!` does with a branch that loses.
pub(crate) async fn polled_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    std::future::poll_fn(|task| Poll::Ready(Pin::new(&mut *future).poll(task))).await
}

/// Makes one test per case and fixture: `across_fixtures!(empty_unary, ..)` wants `async fn empty_unary(fixture: Fixture)` here.
macro_rules! across_fixtures {
    // For tests that play one of the ends by hand.
    (by hand: $($case:ident),* $(,)?) => {
        $crate::support::across_fixtures! { @ tcp Tcp $($case)* }
        $crate::support::across_fixtures! { @ unix Unix $($case)* }
        $crate::support::across_fixtures! { @ mem Mem $($case)* }
        $crate::support::across_fixtures! { @ tcp_by_one_byte TcpByOneByte $($case)* }
    };
    ($($case:ident),* $(,)?) => {
        $crate::support::across_fixtures! { by hand: $($case),* }
        $crate::support::across_fixtures! { @ tls Tls $($case)* }
        $crate::support::across_fixtures! { @ quic Quic $($case)* }
    };
    (@ $module:ident $fixture:ident $($case:ident)*) => {
        mod $module {
            $(
                #[tokio::test]
                async fn $case() {
                    let test = super::$case($crate::support::fixture::Fixture::$fixture);
                    $crate::support::bounded(Box::pin(test)).await;
                }
            )*
        }
    };
}
pub(crate) use across_fixtures;

//! `quic+tcp://`: QUIC where it gets through, TLS over TCP where it does not.
//!
//! A connection is chosen before a call is made on it, so nothing is ever sent twice.

use std::future::Future;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::error::{ConnectError, WithCauses};
use crate::time;

/// How long QUIC has until TCP is tried as well. Source: RFC 8305 section 8, whose delay between two attempts it is.
const HEAD_START: Duration = Duration::from_millis(250);
/// How long TCP is taken first after it won: networks that drop UDP do so for long, and a client that comes back finds that out again soon enough.
const REMEMBERED: Duration = Duration::from_mins(10);

/// What is known about the way to one target.
#[derive(Debug, Default)]
pub(super) struct Fallback {
    /// Until when QUIC is not tried.
    only_tcp: Mutex<Option<Instant>>,
}

impl Fallback {
    /// Connects the one way or the other.
    ///
    /// # Errors
    /// Why neither is possible.
    pub(super) async fn connect<T>(
        &self,
        quic: impl Future<Output = Result<T, ConnectError>>,
        tcp: impl Future<Output = Result<T, ConnectError>>,
    ) -> Result<T, ConnectError> {
        if self.is_tcp_only() {
            // Unless it succeeds, also if it is given up: the network has changed, or the server, and both are tried the next time.
            let forget = Forget(Some(self));
            let connected = tcp.await?;
            forget.keep();
            return Ok(connected);
        }
        let (mut quic, mut tcp) = (pin!(quic), pin!(tcp));
        let early = tokio::select! {
            // Nothing is lost: QUIC goes on below.
            biased;
            connected = &mut quic => Some(connected),
            () = tokio::time::sleep(HEAD_START) => None,
        };
        let failed = match early {
            Some(Ok(connection)) => return Ok(connection),
            Some(Err(error)) => error,
            None => tokio::select! {
                // The one that loses is given up, and says so to its server if it got that far.
                biased;
                connected = &mut quic => match connected {
                    Ok(connection) => return Ok(connection),
                    Err(error) => error,
                },
                connected = &mut tcp => match connected {
                    Ok(connection) => return Ok(self.tcp_won(connection)),
                    Err(tcp) => return quic.await.map_err(|quic| neither(&quic, tcp)),
                },
            },
        };
        match tcp.await {
            Ok(connection) => Ok(self.tcp_won(connection)),
            Err(tcp) => Err(neither(&failed, tcp)),
        }
    }

    fn is_tcp_only(&self) -> bool {
        self.until().is_some_and(|until| time::now() < until)
    }

    fn tcp_won<T>(&self, connection: T) -> T {
        tracing::debug!("QUIC does not get through; TCP is used for {REMEMBERED:?}");
        self.set(Some(time::now() + REMEMBERED));
        connection
    }

    fn until(&self) -> Option<Instant> {
        *self.only_tcp.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, until: Option<Instant>) {
        *self.only_tcp.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

/// Forgets when it is dropped.
struct Forget<'a>(Option<&'a Fallback>);

impl Forget<'_> {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some(fallback) = self.0 {
            fallback.set(None);
        }
    }
}

fn neither(quic: &ConnectError, tcp: ConnectError) -> ConnectError {
    ConnectError::NeitherWay {
        quic: WithCauses(quic).to_string(),
        source: Box::new(tcp),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use tokio::time::{Instant, sleep};

    use super::{ConnectError, Fallback, REMEMBERED};

    fn refused() -> ConnectError {
        ConnectError::Io {
            address: "test".to_owned(),
            source: std::io::ErrorKind::ConnectionRefused.into(),
        }
    }

    async fn after(millis: u64, outcome: Result<&'static str, ConnectError>) -> Result<&'static str, ConnectError> {
        sleep(Duration::from_millis(millis)).await;
        outcome
    }

    /// Who won, after how many milliseconds.
    async fn race(
        fallback: &Fallback,
        quic: (u64, Result<&'static str, ConnectError>),
        tcp: (u64, Result<&'static str, ConnectError>),
    ) -> (Result<&'static str, ConnectError>, u128) {
        let began = Instant::now();
        let won = fallback.connect(after(quic.0, quic.1), after(tcp.0, tcp.1)).await;
        (won, began.elapsed().as_millis())
    }

    const NEVER: u64 = 1_000_000_000;

    #[tokio::test(start_paused = true)]
    async fn quic_has_a_head_start_and_wins_if_it_can() {
        let fallback = Fallback::default();
        let (won, after) = race(&fallback, (200, Ok("quic")), (1, Ok("tcp"))).await;
        assert_eq!((won.unwrap(), after), ("quic", 200));
        // Later than TCP began, and still before it is there.
        let (won, after) = race(&fallback, (300, Ok("quic")), (100, Ok("tcp"))).await;
        assert_eq!((won.unwrap(), after), ("quic", 300));
        assert!(fallback.until().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn tcp_takes_over_and_is_remembered() {
        let fallback = Fallback::default();
        let (won, after) = race(&fallback, (NEVER, Ok("quic")), (10, Ok("tcp"))).await;
        assert_eq!((won.unwrap(), after), ("tcp", 260));
        let (won, after) = race(&fallback, (1, Ok("quic")), (10, Ok("tcp"))).await;
        assert_eq!((won.unwrap(), after), ("tcp", 10), "remembered");
        sleep(REMEMBERED).await;
        let (won, _) = race(&fallback, (1, Ok("quic")), (10, Ok("tcp"))).await;
        assert_eq!(won.unwrap(), "quic", "forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_not_waited_for() {
        let fallback = Fallback::default();
        let (won, took) = race(&fallback, (1, Err(refused())), (10, Ok("tcp"))).await;
        assert_eq!((won.unwrap(), took), ("tcp", 11));
        // What was remembered is forgotten when it fails.
        let (won, _) = race(&fallback, (1, Ok("quic")), (1, Err(refused()))).await;
        won.unwrap_err();
        assert!(fallback.until().is_none());
        // And when nothing comes of it within the caller's time.
        let (won, _) = race(&fallback, (1, Err(refused())), (10, Ok("tcp"))).await;
        won.unwrap();
        assert!(fallback.until().is_some());
        let hopeless = fallback.connect(after(1, Ok("quic")), after(NEVER, Ok("tcp")));
        tokio::time::timeout(Duration::from_secs(1), hopeless).await.unwrap_err();
        assert!(fallback.until().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn neither_way_tells_both_causes() {
        let fallback = Fallback::default();
        for millis in [1, 255, 400] {
            let (failed, _) = race(&fallback, (millis, Err(refused())), (10, Err(refused()))).await;
            let text = failed.unwrap_err().to_string();
            assert!(text.contains("neither over QUIC (cannot connect to test"), "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn tcp_is_not_begun_before_its_time() {
        let (fallback, begun) = (Fallback::default(), Cell::new(false));
        let tcp = async {
            begun.set(true);
            Err(refused())
        };
        let won = fallback.connect(after(249, Ok("quic")), tcp).await;
        assert!(won.is_ok() && !begun.get());
    }
}

//! Callers, and what they check about each of their calls.

use std::ops::RangeFrom;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use futures_util::StreamExt;
use sinew::{Code, HandlerRan, Status, Streaming};
use tokio::time::Instant;

use super::world::{Ledger, WorldClient};

/// How late a call may end behind its deadline: one tick of the timer, and one of rounding on the wire.
const LATE_MAX: Duration = Duration::from_millis(2);

/// Makes calls one after the other.
pub(crate) struct Caller {
    pub(crate) client: WorldClient,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) rng: Rng,
    pub(crate) nonces: RangeFrom<u64>,
    /// Time that the caller itself took over what had arrived.
    pub(crate) dawdled: Duration,
}

/// How a call came out, as far as all kinds have that in common.
#[derive(Debug)]
struct Ended {
    nonce: u64,
    began: Instant,
    timeout: Duration,
    result: Result<(), Status>,
}

impl Caller {
    pub(crate) async fn call_for_a_while(mut self) {
        for _ in 0..self.rng.u32(1..25) {
            if self.rng.bool() {
                tokio::time::sleep(Duration::from_millis(self.rng.u64(0..200))).await;
            }
            let kind = self.rng.u8(..10);
            let give_up = (self.rng.u8(..6) == 0).then(|| Duration::from_millis(self.rng.u64(0..60)));
            let Some(give_up) = give_up else {
                self.call(kind).await;
                continue;
            };
            // A caller that drops its call: it must not have run twice, and must leave nothing behind.
            let nonce = self.nonces.start;
            let ledger = Arc::clone(&self.ledger);
            if tokio::time::timeout(give_up, self.call(kind)).await.is_err() {
                ledger.count(|tally| tally.given_up += 1);
            }
            assert!(ledger.runs(nonce) <= 1, "call {nonce} ran {} times", ledger.runs(nonce));
        }
    }

    async fn call(&mut self, kind: u8) {
        let nonce = self.nonces.next().expect("there is no end of numbers");
        let timeout = Duration::from_millis(self.rng.u64(5..3_000));
        let began = Instant::now();
        self.dawdled = Duration::ZERO;
        let result = match kind {
            0..5 => self.once(nonce, timeout).await,
            5 | 6 => self.list(nonce, timeout).await,
            7 | 8 => self.sum(nonce, timeout).await,
            _ => self.next(nonce, timeout).await,
        };
        self.check(&Ended {
            nonce,
            began,
            timeout,
            result,
        });
    }

    async fn once(&mut self, nonce: u64, timeout: Duration) -> Result<(), Status> {
        let millis = [0, 0, 0, self.rng.u64(0..100), self.rng.u64(0..5_000)][self.rng.usize(..5)];
        let bytes = [0, 10, 5_000, 100_000][self.rng.usize(..4)];
        let call = self.client.once(nonce, millis, bytes).timeout(timeout);
        let call = if self.rng.bool() { call.wait_for_ready() } else { call };
        let answer = call.await?;
        assert_eq!(answer.len(), bytes);
        Ok(())
    }

    async fn list(&mut self, nonce: u64, timeout: Duration) -> Result<(), Status> {
        let (count, millis) = (self.rng.u32(0..3_000), [0, 0, 1, 20][self.rng.usize(..4)]);
        let mut numbers = self.client.list(nonce, count, millis).timeout(timeout).await?;
        let mut expected = 0;
        let slow = self.rng.u8(..4) == 0;
        while let Some(number) = numbers.next().await {
            assert_eq!(number?, expected, "in order, without gaps");
            expected += 1;
            if slow && expected % 100 == 0 {
                // A reader that takes its time, but not more than it has.
                tokio::time::sleep(Duration::from_millis(1)).await;
                self.dawdled += Duration::from_millis(1);
            }
        }
        assert_eq!(expected, count, "an orderly end comes after the last item");
        Ok(())
    }

    /// Numbers to send, with pauses.
    fn numbers(&mut self, count: u32) -> Streaming<u32> {
        let pause = [0, 0, 1, 30][self.rng.usize(..4)];
        Streaming::from(futures_util::stream::iter(0..count).then(move |number| async move {
            if pause > 0 && number % 10 == 0 {
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            Ok(number)
        }))
    }

    async fn sum(&mut self, nonce: u64, timeout: Duration) -> Result<(), Status> {
        let count = self.rng.u32(0..3_000);
        let numbers = self.numbers(count);
        let sum = self.client.sum(nonce, numbers).timeout(timeout).await?;
        assert_eq!(sum, (0..u64::from(count)).sum::<u64>());
        Ok(())
    }

    async fn next(&mut self, nonce: u64, timeout: Duration) -> Result<(), Status> {
        let count = self.rng.u32(0..3_000);
        let numbers = self.numbers(count);
        let mut answers = self.client.next(nonce, numbers).timeout(timeout).await?;
        let mut expected = 0;
        while let Some(answer) = answers.next().await {
            expected += 1;
            assert_eq!(answer?, expected);
        }
        assert_eq!(expected, count);
        Ok(())
    }

    fn check(&self, ended: &Ended) {
        let Ended {
            nonce,
            began,
            timeout,
            result,
            ..
        } = ended;
        let took = began.elapsed();
        assert!(
            took <= *timeout + self.dawdled + LATE_MAX,
            "call took {took:?}: {ended:?}"
        );
        let runs = self.ledger.runs(*nonce);
        assert!(runs <= 1, "call {nonce} ran {runs} times: {result:?}");
        let Err(status) = result else {
            assert_eq!(runs, 1, "call {nonce} was answered");
            self.ledger.count(|tally| tally.answered += 1);
            return;
        };
        if status.handler_ran() == HandlerRan::No {
            assert_eq!(runs, 0, "call {nonce} ran, and its status denies it: {status:?}");
            self.ledger.deny(*nonce);
        }
        match status.code() {
            Code::DeadlineExceeded => {
                assert!(
                    took >= *timeout,
                    "call {nonce} ended after {took:?} of {timeout:?}: {status:?}"
                );
                self.ledger.count(|tally| tally.late += 1);
            }
            Code::Unavailable if status.handler_ran() == HandlerRan::No => {
                self.ledger.count(|tally| tally.unavailable_not_run += 1);
            }
            Code::Unavailable => self.ledger.count(|tally| tally.unavailable_maybe_run += 1),
            // A request's stream that breaks with its connection is seen by the handler first.
            other => panic!("call {nonce} ended with {other:?}: {status:?}"),
        }
    }
}

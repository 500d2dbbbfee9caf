//! Whether a path loses packets, so that calls which share a stream would wait for each other's.
//!
//! Fed with the running counts of a connection. Every run of packets is judged by itself; a path counts as lossy from the first bad run on, and as clean
//! again after several good ones in a row, so that one loss among many packets changes nothing and calls do not go to and fro.

/// Packets that make a run: with fewer, one loss would decide.
const RUN_PACKETS: u64 = 128;
/// One packet of so many lost makes a run a bad one. Calls that share a stream wait for a retransmission with each loss of any of their packets: at this
/// rate, one call of a hundred does when ten share one. Source: the head-of-line and loss figures of benches/peers.
const LOST_ONE_OF: u64 = 200;
/// Good runs in a row after which the path is trusted again.
const GOOD_RUNS: u32 = 8;

/// What is known about the losses of a path.
#[derive(Debug, Default)]
pub struct LossWatch {
    sent: u64,
    lost: u64,
    good_runs_missing: u32,
}

impl LossWatch {
    /// Takes up how many packets were sent and lost since the beginning; tells whether the path is lossy.
    pub fn update(&mut self, sent: u64, lost: u64) -> bool {
        if sent < self.sent {
            // The connection has moved to another path, which counts from its own beginning.
            (self.sent, self.lost) = (0, 0);
        }
        let run = sent.saturating_sub(self.sent);
        if run >= RUN_PACKETS {
            let run_lost = lost.saturating_sub(self.lost);
            self.good_runs_missing = if run_lost.saturating_mul(LOST_ONE_OF) >= run {
                GOOD_RUNS
            } else {
                self.good_runs_missing.saturating_sub(1)
            };
            (self.sent, self.lost) = (sent, lost);
        }
        self.good_runs_missing > 0
    }
}

#[cfg(test)]
mod tests {
    use super::{GOOD_RUNS, LOST_ONE_OF, LossWatch, RUN_PACKETS};

    #[test]
    fn a_bad_run_counts_until_enough_good_ones() {
        let mut watch = LossWatch::default();
        assert!(!watch.update(RUN_PACKETS, 0));
        assert!(watch.update(2 * RUN_PACKETS, 3));
        for run in 3..2 + u64::from(GOOD_RUNS) {
            assert!(watch.update(run * RUN_PACKETS, 3), "{run}");
        }
        assert!(!watch.update((2 + u64::from(GOOD_RUNS)) * RUN_PACKETS, 3));
    }

    #[test]
    fn one_loss_among_many_packets_changes_nothing() {
        let mut watch = LossWatch::default();
        assert!(!watch.update(LOST_ONE_OF + 1, 1));
        // Another path.
        assert!(!watch.update(10, 0));
        assert!(watch.update(RUN_PACKETS, 9));
        let mut watch = LossWatch::default();
        assert!(!watch.update(LOST_ONE_OF + 1, 1));
        // Too few to judge by.
        assert!(!watch.update(LOST_ONE_OF + RUN_PACKETS, 50));
        assert!(watch.update(LOST_ONE_OF + RUN_PACKETS + 1, 50));
    }
}

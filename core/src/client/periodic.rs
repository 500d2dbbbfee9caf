//! What the task of a pool looks at from time to time: whether nothing is called for so long that it can rest, and whether its pickers go by reports that are old.

use std::time::Duration;

use super::members::Members;

/// The time without calls is looked at so many times before it counts as idle.
const IDLE_LOOKS: u32 = 2;

/// Finds out that nothing was called for long.
pub(super) struct Idle {
    look_every: Option<Duration>,
    next: tokio::time::Instant,
    begun: u64,
    quiet_looks: u32,
}

impl Idle {
    pub(super) fn new(timeout: Option<Duration>) -> Self {
        let look_every = timeout.map(|timeout| (timeout / IDLE_LOOKS).max(Duration::from_millis(1)));
        Self {
            look_every,
            next: tokio::time::Instant::now() + look_every.unwrap_or_default(),
            begun: 0,
            quiet_looks: 0,
        }
    }

    pub(super) async fn look(&self) {
        match self.look_every {
            Some(_) => tokio::time::sleep_until(self.next).await,
            None => std::future::pending().await,
        }
    }

    pub(super) fn is_over(&mut self, members: &Members) -> bool {
        self.next = tokio::time::Instant::now() + self.look_every.unwrap_or_default();
        let (begun, running) = members.calls();
        // Members that left the list took their calls along.
        let is_quiet = begun <= self.begun && running == 0;
        self.begun = begun;
        self.quiet_looks = if is_quiet { self.quiet_looks + 1 } else { 0 };
        self.quiet_looks >= IDLE_LOOKS
    }
}

/// Has pickers made anew at times, as long as there are calls.
pub(super) struct Refresh {
    last: tokio::time::Instant,
    /// Calls that were begun until then.
    begun: u64,
}

impl Refresh {
    pub(super) fn new() -> Self {
        Self {
            last: tokio::time::Instant::now(),
            begun: 0,
        }
    }

    /// Has a picker made if it is time; tells when it will be.
    pub(super) fn look(
        &mut self,
        now: tokio::time::Instant,
        every: Option<Duration>,
        members: &mut Members,
    ) -> Option<tokio::time::Instant> {
        let every = every?;
        if now.duration_since(self.last) >= every {
            self.last = now;
            let (begun, _) = members.calls();
            if begun != self.begun {
                self.begun = begun;
                members.show_again();
            }
        }
        // One that is never due needs no alarm.
        self.last.checked_add(every)
    }
}

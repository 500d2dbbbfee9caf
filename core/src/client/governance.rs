//! What all calls of a target share: the policies that hold, what is known of each method, and what was done about failures.
//!
//! An attempt asks for a [`Permit`] before it is made, and gives it back with how it ended. Which attempt follows which is `retry`'s and `hedge`'s business.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::accounts::{Account, Accounts, Failure, Guards};
use super::channel::Channel;
use super::raw::RawRequest;
use super::snapshot::MethodSnapshot;
use crate::config::ServiceConfig;
use crate::faults::ChannelFaults;
use crate::method::MethodSpec;
use crate::policy::breaker::{CircuitBreaker, Pass};
use crate::policy::hedging::HedgingPolicy;
use crate::policy::retry::RetryPolicy;
use crate::policy::throttle::AdaptiveThrottle;
use crate::priority::Priority;
use crate::status::Status;
use crate::time;

/// What holds where a service's configuration says nothing else.
#[derive(Clone, Copy)]
pub(super) struct Policies {
    pub(super) retry: RetryPolicy,
    pub(super) hedging: HedgingPolicy,
    pub(super) guards: Guards,
}

impl Policies {
    /// As a channel comes.
    pub(super) const DEFAULT: Self = Self {
        retry: RetryPolicy::DEFAULT,
        hedging: HedgingPolicy::NEVER,
        guards: Guards {
            throttle: AdaptiveThrottle::DEFAULT,
            breaker: CircuitBreaker::NEVER,
        },
    };
}

/// What all calls of a target share.
pub(super) struct Governance {
    policies: Policies,
    faults: Option<Arc<ChannelFaults>>,
    accounts: Accounts,
    retries: AtomicU64,
    retries_withheld: AtomicU64,
    hedges: AtomicU64,
    hedges_withheld: AtomicU64,
}

impl Governance {
    pub(super) fn new(policies: Policies, faults: Option<Arc<ChannelFaults>>) -> Self {
        Self {
            policies,
            faults,
            accounts: Accounts::new(),
            retries: AtomicU64::new(0),
            retries_withheld: AtomicU64::new(0),
            hedges: AtomicU64::new(0),
            hedges_withheld: AtomicU64::new(0),
        }
    }

    #[inline]
    pub(super) fn policies(&self) -> &Policies {
        &self.policies
    }

    /// What is done to attempts on purpose.
    #[inline]
    pub(super) fn faults(&self) -> Option<&ChannelFaults> {
        self.faults.as_deref()
    }

    /// A call that took long was made a second time, or should have been.
    pub(super) fn count_hedge(&self, is_made: bool, is_wanted: bool) {
        let counter = if is_made { &self.hedges } else { &self.hedges_withheld };
        counter.fetch_add(u64::from(is_wanted), Ordering::Relaxed);
    }

    /// Calls that were made a second time because they took long, and those that were not because nothing paid for it, or there was nobody else.
    pub(super) fn hedge_counts(&self) -> (u64, u64) {
        (
            self.hedges.load(Ordering::Relaxed),
            self.hedges_withheld.load(Ordering::Relaxed),
        )
    }

    /// What is known of a method.
    #[inline]
    pub(super) fn account(&self, method: u64) -> &Account {
        self.accounts.of(method)
    }

    /// When nothing had been called yet.
    pub(super) fn since(&self) -> Instant {
        self.accounts.since()
    }

    /// A retry that was paid for is about to be made, if its call is not given up before.
    pub(super) fn paid(&self, method: u64) -> Paid<'_> {
        Paid {
            governance: self,
            method,
            is_spent: false,
        }
    }

    /// Retries by policy that were made, and those that were not because nothing paid for them.
    pub(super) fn retry_counts(&self) -> (u64, u64) {
        (
            self.retries.load(Ordering::Relaxed),
            self.retries_withheld.load(Ordering::Relaxed),
        )
    }

    /// Methods of which there is something to tell.
    pub(super) fn methods(&self) -> Vec<MethodSnapshot> {
        self.accounts.snapshot()
    }

    /// Pays for a retry, if there is enough.
    pub(super) fn pay(&self, method: u64) -> bool {
        let is_paid = self.account(method).pay();
        let counter = if is_paid { &self.retries } else { &self.retries_withheld };
        counter.fetch_add(1, Ordering::Relaxed);
        is_paid
    }
}

/// What was paid for a retry, to be given back unless it is made.
pub(super) struct Paid<'a> {
    governance: &'a Governance,
    method: u64,
    is_spent: bool,
}

impl Paid<'_> {
    /// The retry is made.
    pub(super) fn spend(mut self) {
        self.is_spent = true;
    }
}

impl Drop for Paid<'_> {
    fn drop(&mut self) {
        if self.is_spent {
            return;
        }
        self.governance.account(self.method).pay_back();
        self.governance.retries.fetch_sub(1, Ordering::Relaxed);
        self.governance.retries_withheld.fetch_add(1, Ordering::Relaxed);
    }
}

/// An attempt that the policies let through; if nobody says how it ended, that tells nothing.
pub(super) struct Permit<'a> {
    account: &'a Account,
    guards: Guards,
    pass: Pass,
    spec: Option<&'static MethodSpec>,
    /// Of a method without a specification.
    path: Option<Arc<str>>,
    priority: Priority,
    since: Instant,
    /// When its call is over in any case, once it was sent.
    due: Option<Instant>,
    is_over: bool,
}

impl Permit<'_> {
    /// The attempt is on its way, and has until then.
    pub(super) fn sent(&mut self, due: Option<Instant>) {
        self.due = due;
    }

    pub(super) fn end_well(mut self) {
        self.is_over = true;
        self.account.end_well(self.pass, &self.guards, self.priority);
    }

    /// `is_answer`: by no fault of the service.
    pub(super) fn end_failed(mut self, request: &RawRequest, status: &Status, is_answer: bool) {
        self.is_over = true;
        let failure = Failure {
            path: request.path().unwrap_or_default(),
            priority: self.priority,
            status,
            is_answer,
        };
        self.account.end_failed(self.pass, &self.guards, &failure, self.since);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        // Whoever looked at the clock first.
        if self.due.is_some_and(|due| due <= time::now()) {
            let path = self.spec.map(MethodSpec::path).or(self.path.as_deref());
            self.account.end_late(
                self.pass,
                &self.guards,
                path.unwrap_or_default(),
                self.priority,
                self.since,
            );
        } else {
            self.account.end_aside(self.pass, &self.guards);
        }
    }
}

impl Channel {
    /// What may keep calls of a method from being made.
    pub(super) fn guards(&self, method: &str) -> Guards {
        let config = self.config();
        let (configured, for_all) = ServiceConfig::for_method(config.as_deref(), method);
        let default = self.governance().policies().guards;
        Guards {
            throttle: configured.throttle.or(for_all.throttle).unwrap_or(default.throttle),
            breaker: configured.breaker.or(for_all.breaker).unwrap_or(default.breaker),
        }
    }

    /// Lets an attempt through.
    ///
    /// # Errors
    /// UNAVAILABLE if a policy says no.
    pub(super) fn admit(&self, request: &RawRequest) -> Result<Permit<'_>, Status> {
        let account = self.governance().account(request.method);
        let guards = self.guards(request.method_name());
        let priority = Priority::of(&request.metadata);
        let pass = account.admit(&guards, request.path().unwrap_or_default(), priority)?;
        Ok(Permit {
            account,
            guards,
            pass,
            spec: request.spec,
            path: request.path.clone(),
            priority,
            since: self.governance().since(),
            due: None,
            is_over: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Governance, Policies};
    use crate::client::accounts::ACCOUNTS;
    use crate::priority::Priority;

    #[test]
    fn methods_have_budgets_of_their_own_as_long_as_there_are_any() {
        let shared = Governance::new(Policies::DEFAULT, None);
        let spent = |method| shared.pay(method);
        // One retry is paid for from the start, of each.
        for method in [1, 1 + ACCOUNTS as u64, 1 + 2 * ACCOUNTS as u64, 2] {
            assert!(spent(method) && !spent(method), "{method}");
        }
        shared.account(1).note_answer(Priority::Normal);
        assert_eq!(shared.retry_counts(), (4, 4));
        // What comes above that shares.
        for method in 3..10_000 {
            spent(method);
        }
        let (made, withheld) = shared.retry_counts();
        assert_eq!((made, made + withheld), (ACCOUNTS as u64 + 1, 8 + 9_997));
    }
}

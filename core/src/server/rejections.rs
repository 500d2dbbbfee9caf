//! How many calls a server turned away, of which method, by which policy, and why: attributes, configuration, adaptive concurrency and faults alike.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::router::Router;
use super::snapshot::RejectionSnapshot;
use crate::status::Status;

/// Kinds of rejections that are told apart. Handlers may pass on what others said, so it must not be theirs how many there are.
const KINDS_MAX: usize = 256;
/// What all further ones are called.
const OTHER: &str = "other";

/// The counts of a server.
#[derive(Debug, Default)]
pub(super) struct Rejections {
    counts: Mutex<BTreeMap<Kind, u64>>,
}

/// The method's route, the policy and the reason.
type Kind = (Option<usize>, String, String);

impl Rejections {
    /// A call of the method at `route` ends like this; it is counted if a policy turned it away.
    pub(super) fn note(&self, route: Option<usize>, status: &Status) {
        let Some(policy) = status.policy() else { return };
        let kind = (route, policy.to_owned(), status.reason().unwrap_or_default().to_owned());
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() < KINDS_MAX || counts.contains_key(&kind) {
            *counts.entry(kind).or_default() += 1;
        } else {
            *counts.entry((None, OTHER.to_owned(), OTHER.to_owned())).or_default() += 1;
        }
    }

    pub(super) fn snapshot(&self, router: &Router) -> Vec<RejectionSnapshot> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let of_kind = |((route, policy, reason), calls): (&Kind, &u64)| RejectionSnapshot {
            path: route.and_then(|at| router.route(at)).map(|route| route.spec.path()),
            policy: policy.clone(),
            reason: reason.clone(),
            calls: *calls,
        };
        counts.iter().map(of_kind).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{KINDS_MAX, Rejections};
    use crate::status::Status;

    #[test]
    fn no_more_kinds_than_may_be_are_told_apart() {
        let rejections = Rejections::default();
        let turned_away = |policy: String| Status::unavailable("x").with_rejection(&policy, "because");
        rejections.note(None, &Status::unavailable("by no policy"));
        for kind in 0..KINDS_MAX + 10 {
            rejections.note(Some(1), &turned_away(format!("policy_{kind}")));
            rejections.note(Some(1), &turned_away("policy_0".to_owned()));
        }
        let counts = rejections.counts.lock().unwrap();
        assert_eq!(counts.len(), KINDS_MAX + 1, "those, and all others together");
        let count = |policy: &str| counts.iter().find(|((_, of, _), _)| of == policy).map(|(_, calls)| *calls);
        assert_eq!(count("policy_0"), Some(KINDS_MAX as u64 + 11));
        assert_eq!(count("other"), Some(10));
    }
}

//! What the end of a call tells: of the service (budget, breaker, throttle), and of the endpoint that was asked (load, ejection).
//!
//! Each asks something else. That a server had no time is bad for a method, and reason to ask another endpoint; a quota of one caller's is neither.

use super::breaker::Ended;
use super::load::Verdict;
use crate::code::Code;
use crate::status::{HandlerRan, OVERLOAD_POLICY, Origin, Status};

/// Whether a failure is the call's own fault, or nobody's: the service is none the worse for it.
pub(crate) fn spares_service(status: &Status) -> bool {
    !matches!(
        status.code(),
        Code::Unavailable
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Internal
            | Code::Unknown
            | Code::DataLoss
            | Code::DeadlineExceeded
            | Code::Cancelled
    )
}

/// Whether a server had no time for a call.
pub(crate) fn was_turned_away(status: &Status) -> bool {
    let says_so = match status.code() {
        Code::Unavailable => true,
        Code::ResourceExhausted => status.policy() == Some(OVERLOAD_POLICY),
        _ => false,
    };
    says_so && status.is_from_server()
}

/// How a call that failed ended, for a breaker.
pub(crate) fn ended(status: &Status) -> Ended {
    // Nothing was sent, or nobody took it up.
    let is_unsent = status.handler_ran() == HandlerRan::No && !status.is_from_server();
    match status.code() {
        _ if status.is_callers_own() => Ended::Aside,
        _ if was_turned_away(status) => Ended::Badly,
        _ if is_unsent => Ended::Aside,
        Code::Unavailable | Code::Internal | Code::Unknown | Code::DataLoss | Code::DeadlineExceeded => Ended::Badly,
        Code::Cancelled => Ended::Aside,
        Code::ResourceExhausted if status.origin() == Origin::Local => Ended::Aside,
        _ => Ended::Well,
    }
}

/// Whether RESOURCE_EXHAUSTED is about the endpoint, and not about one caller's share: it says so, or when to come back, as who counts calls by no policy does not.
fn is_overload(status: &Status) -> bool {
    match status.policy() {
        Some(policy) => policy == OVERLOAD_POLICY,
        None => status.retry_after().is_some(),
    }
}

/// What a status tells about the endpoint it came from.
pub(crate) fn verdict(status: &Status) -> Verdict {
    match status.code() {
        _ if status.is_callers_own() => Verdict::Neutral,
        // Its own fault, or its way's.
        Code::Unknown | Code::Internal | Code::DataLoss => Verdict::Failed,
        // What one caller may do there, or all of them, says nothing of the others' calls.
        Code::ResourceExhausted if !is_overload(status) => Verdict::Neutral,
        // It has more than it can do, or says so; whoever is about to leave, and took nothing up, is not worse for that.
        Code::ResourceExhausted if status.origin() != Origin::Local => Verdict::Failed,
        Code::Unavailable if status.handler_ran() != HandlerRan::No => Verdict::Failed,
        Code::Cancelled | Code::ResourceExhausted | Code::Unavailable => Verdict::Neutral,
        // It may be the caller's time that was too short; at the others too, then.
        Code::DeadlineExceeded => Verdict::Late,
        _ => Verdict::Answered,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{ended, spares_service, verdict, was_turned_away};
    use crate::code::Code;
    use crate::policy::breaker::Ended;
    use crate::policy::load::Verdict;
    use crate::status::{HandlerRan, OVERLOAD_POLICY, Origin, Status};

    /// What a status is, what it tells of a service and of an endpoint, and whether the server had no time for the call.
    type Case = (&'static str, Status, Ended, Verdict, bool);

    fn said(code: Code) -> Status {
        Status::new(code, "x").with_origin(Origin::Remote).answered_by_server()
    }

    fn unsent(code: Code) -> Status {
        Status::new(code, "x").with_origin(Origin::Local).with_handler_ran(HandlerRan::No)
    }

    fn check(cases: impl IntoIterator<Item = Case>) {
        for (what, status, of_service, of_endpoint, turned_away) in cases {
            assert_eq!(ended(&status), of_service, "{what}");
            assert_eq!(verdict(&status), of_endpoint, "{what}");
            assert_eq!(was_turned_away(&status), turned_away, "{what}");
        }
    }

    #[test]
    fn an_end_tells_different_things_of_a_service_and_of_an_endpoint() {
        let stalled = unsent(Code::DeadlineExceeded).with_handler_ran(HandlerRan::Maybe).callers_own();
        check([
            ("a crash", said(Code::Internal), Ended::Badly, Verdict::Failed, false),
            (
                "no order 7",
                said(Code::NotFound),
                Ended::Well,
                Verdict::Answered,
                false,
            ),
            ("not now", said(Code::Unavailable), Ended::Badly, Verdict::Failed, true),
            ("late", said(Code::DeadlineExceeded), Ended::Badly, Verdict::Late, false),
            ("given up", said(Code::Cancelled), Ended::Aside, Verdict::Neutral, false),
            (
                "nobody there",
                unsent(Code::Unavailable),
                Ended::Aside,
                Verdict::Neutral,
                false,
            ),
            (
                "an upload that gives nothing",
                stalled,
                Ended::Aside,
                Verdict::Neutral,
                false,
            ),
        ]);
        assert!(spares_service(&said(Code::NotFound)) && !spares_service(&said(Code::Unknown)));
    }

    #[test]
    fn too_much_for_one_caller_is_not_too_much_for_a_server() {
        let exhausted = || said(Code::ResourceExhausted);
        let limited = exhausted().with_rejection("rate_limit", "too_many_requests");
        let overloaded = exhausted().with_rejection(OVERLOAD_POLICY, "overloaded");
        // By a server that has no word for it.
        let hinted = exhausted().with_retry_after(Duration::from_millis(100));
        let too_large = unsent(Code::ResourceExhausted);
        check([
            ("ten a day", exhausted(), Ended::Well, Verdict::Neutral, false),
            ("500 a second", limited, Ended::Well, Verdict::Neutral, false),
            ("too much to do", overloaded, Ended::Badly, Verdict::Failed, true),
            ("come back later", hinted, Ended::Well, Verdict::Failed, false),
            ("too large", too_large, Ended::Aside, Verdict::Neutral, false),
        ]);
    }
}

//! Calls that are made a second time, at another endpoint, because the first answer takes long.
//!
//! The decisions are `policy/hedging`'s. The first answer counts; dropping the other attempt cancels it at its server.

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::runtime::Handle;

use super::attempt::{Failed, Opened, open_somewhere};
use super::channel::{Channel, Wanted};
use super::ejection::MayAsk;
use super::member::Picked;
use super::raw::{Cause, RawRequest};
use crate::config::ServiceConfig;
use crate::message::Reply;
use crate::method::MethodSpec;
use crate::policy::hedging::HedgingPolicy;
use crate::policy::retry::RetryPolicy;
use crate::policy::verdict::spares_service;
use crate::status::HandlerRan;
use crate::time;

/// Attempts of a call that is hedged and never retried.
const HEDGED_ATTEMPTS: u32 = 2;

impl Channel {
    /// How calls of a method are made a second time, if they are.
    pub(super) fn hedging(&self, method: &str) -> Option<HedgingPolicy> {
        let config = self.config()?;
        let (configured, for_all) = ServiceConfig::for_method(Some(&config), method);
        let policy = configured.hedging.or(for_all.hedging).unwrap_or_else(|| self.governance().policies().hedging);
        policy.is_on().then_some(policy)
    }

    /// The same for one call, which has to be one that can be made twice.
    pub(super) fn hedging_of(&self, request: &RawRequest) -> Option<HedgingPolicy> {
        let may_be = request.is_unary() && request.is_idempotent() && !request.history.is_on_behalf_of_a_retry;
        // Outside a runtime there is no time to wait for.
        if !may_be || request.outbound_spent || Handle::try_current().is_err() {
            return None;
        }
        let hedging = self.hedging(request.method_name())?;
        // Together with its retries it is made no more often than they say, but for a second time; what nobody took up does not count.
        let attempts_max = self.retry_policy(request.method_name()).max_attempts().max(HEDGED_ATTEMPTS);
        (request.history.attempts < attempts_max + request.history.turned_away).then_some(hedging)
    }
}

/// The answer to a call that was opened at one endpoint, or of another one if that takes long.
pub(super) async fn hedged(
    channel: &Channel,
    request: &mut RawRequest,
    policy: &RetryPolicy,
    hedging: &HedgingPolicy,
    mut opened: Opened,
) -> Result<Reply, Failed> {
    let account = channel.governance().account(request.method);
    let path = request.spec.map_or("", MethodSpec::path);
    let (began, member) = (time::now(), opened.member());
    let note = |began: Instant, member: Option<u64>| {
        if let Some(member) = member {
            account.hedges(path).note(member, time::now().saturating_duration_since(began));
        }
    };
    let schedule = account.hedges(path).begin(hedging);
    let overtaken = opened.overtaken();
    let mut first = pin!(opened.answered(request.method, request.idle_timeout));
    let mut is_paid = false;
    for (delay, is_late) in schedule.into_iter().flat_map(|when| [(when.early, false), (when.late, true)]) {
        let Some(at) = began.checked_add(delay) else { continue };
        match tokio::time::timeout_at(at.into(), first.as_mut()).await {
            Ok(outcome) => {
                if outcome.is_ok() {
                    note(began, member);
                }
                return outcome;
            }
            Err(_) => is_paid = account.hedges(path).pay(is_late),
        }
        if is_paid {
            break;
        }
    }
    let other = if is_paid { elsewhere(channel, request) } else { None };
    let admitted = other.and_then(|other| Some((other, channel.admit(request).ok()?)));
    let Some((other, permit)) = admitted else {
        if is_paid {
            account.hedges(path).give_back();
        }
        channel.governance().count_hedge(false, schedule.is_some());
        let outcome = first.await;
        if outcome.is_ok() {
            note(began, member);
        }
        return outcome;
    };
    channel.governance().count_hedge(true, true);
    let second_member = other.completion.as_ref().map(|completion| completion.member().id);
    let second_began = time::now();
    request.history.attempts += 1;
    request.history.was_retried = true;
    request.mark_attempt();
    let (method, idle) = (request.method, request.idle_timeout);
    let mut second = pin!(async {
        let opened = open_somewhere(channel, request, policy, Some(other)).await?;
        opened.answered(method, idle).await
    });
    let (outcome, was_first) = tokio::select! {
        outcome = first.as_mut() => (outcome, true),
        outcome = second.as_mut() => (outcome, false),
    };
    // It took that long at least, and is not waited for.
    if outcome.is_ok() {
        note(began, member);
        if !was_first {
            note(second_began, second_member);
            overtaken.inspect(|overtaken| overtaken.store(true, Ordering::Relaxed));
        }
    }
    // Both are one call, and whoever made it tells how that ended.
    drop(permit);
    if is_final(&outcome) {
        return outcome;
    }
    let last = if was_first { second.await } else { first.await };
    after(outcome, last)
}

/// Another endpoint than those that were tried, if one is there.
fn elsewhere(channel: &Channel, request: &mut RawRequest) -> Option<Picked> {
    let picked = channel.pick(&Wanted {
        method: request.method,
        metadata: &request.metadata,
        route_key: request.route_key,
        may_ask: &|| MayAsk::Never,
        tried: &request.history.tried,
        wait_for_ready: false,
    })?;
    let member = picked.completion.as_ref()?.member().id;
    if request.history.tried.contains(&member) {
        picked.give_up();
        return None;
    }
    request.history.tried.push(member);
    Some(picked)
}

/// Whether nothing better can come: it is answered, if only with what the application says.
fn is_final(outcome: &Result<Reply, Failed>) -> bool {
    match outcome {
        Ok(_) => true,
        Err((status, cause)) => {
            *cause == Cause::Failed && spares_service(status) && status.handler_ran() != HandlerRan::No
        }
    }
}

/// What two attempts came to, the first of which failed.
fn after(before: Result<Reply, Failed>, last: Result<Reply, Failed>) -> Result<Reply, Failed> {
    match (before, last) {
        (Err((before, _)), Err((last, cause)))
            if last.handler_ran() == HandlerRan::No && before.handler_ran() != HandlerRan::No =>
        {
            Err((last.with_handler_ran(HandlerRan::Maybe), cause))
        }
        (_, last) => last,
    }
}

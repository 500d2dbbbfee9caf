//! Faults on purpose: which calls meet one, and what becomes of them. Chance is an argument.

use std::borrow::Cow;
use std::time::Duration;

use crate::code::Code;
use crate::metadata::Metadata;
use crate::policy::ring::hash;
use crate::time::IntoDuration;

/// Longer delays are cut: who wants a call never to be answered has [`Fault::drop`].
pub(crate) const DELAY_MAX: Duration = Duration::from_mins(10);

/// A fault, and the calls that meet it: all of them, until something narrows it down.
///
/// # Examples
/// ```
/// # mod sinew { pub use sinew_core::code::Code; pub mod faults { pub use sinew_core::faults::Fault; } }
/// use sinew::Code;
/// use sinew::faults::Fault;
///
/// // Of the calls of one tenant that place orders, one in ten takes 200 ms more.
/// let slow = Fault::delay("200ms").percent(10.0).method("shop.Orders/place").only("tenant", "acme");
/// // One tenant in a hundred has all its calls fail.
/// let failing = Fault::error(Code::Unavailable).percent(1.0).by_key("tenant");
/// # let _ = (slow, failing);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    effect: Effect,
    /// Of the calls or keys, 0 to 1.
    share: f64,
    by_key: Option<String>,
    method: Option<String>,
    endpoint: Option<String>,
    only: Option<(String, Vec<u8>)>,
    /// The service and the method's own name, as a service's configuration has them.
    service: Option<String>,
    name: Option<String>,
    lasts: Option<Duration>,
}

/// What a fault does.
#[derive(Clone, Debug, PartialEq)]
enum Effect {
    Delay(Duration),
    End(End),
}

/// How a fault ends a call.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    Error {
        code: Code,
        message: Cow<'static, str>,
        /// It says that no handler saw the call.
        is_unseen: bool,
    },
    /// As a server that has too much to do.
    Overload,
    /// It is never answered.
    Drop,
}

/// What is known of a call, or of one attempt of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) path: &'a str,
    pub(crate) metadata: &'a Metadata,
    /// Where an attempt goes, where there are several.
    pub(crate) endpoint: &'a str,
}

/// What becomes of a call.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Met {
    pub(crate) delay: Duration,
    /// After the delay.
    pub(crate) end: Option<End>,
}

impl Met {
    pub(crate) fn is_any(&self) -> bool {
        !self.delay.is_zero() || self.end.is_some()
    }
}

impl Fault {
    fn new(effect: Effect) -> Self {
        Self {
            effect,
            share: 1.0,
            by_key: None,
            method: None,
            endpoint: None,
            only: None,
            service: None,
            name: None,
            lasts: None,
        }
    }

    /// Calls take that much longer, 10 min at most: at a client the answer comes later, at a server the handler begins later. If the time is text that is none, they
    /// end with INTERNAL: a test that waited for nothing would tell nothing.
    #[must_use]
    pub fn delay(time: impl IntoDuration) -> Self {
        match time.into_duration() {
            Ok(time) => Self::new(Effect::Delay(time.min(DELAY_MAX))),
            Err(error) => Self::wrong(&format_args!("its delay: {error}")),
        }
    }

    fn wrong(what: &dyn std::fmt::Display) -> Self {
        Self::error(Code::Internal).unseen().message(format!("a fault is set wrong: {what}"))
    }

    /// Calls end with that code, as if a handler had failed: whoever looks at the status is told that one may have run. [`Code::Ok`] counts as [`Code::Unknown`].
    #[must_use]
    pub fn error(code: Code) -> Self {
        Self::new(Effect::End(End::Error {
            code: if code == Code::Ok { Code::Unknown } else { code },
            message: Cow::Borrowed("a fault was injected"),
            is_unseen: false,
        }))
    }

    /// Calls are turned away as by a server that has too much to do: with RESOURCE_EXHAUSTED, the policy `adaptive_concurrency`, and when to come back.
    /// Throttles, retries and balancers take it for that.
    #[must_use]
    pub fn overload() -> Self {
        Self::new(Effect::End(End::Overload))
    }

    /// Calls are not answered: at a client the answer is lost, at a server the handler is not run. They end at their deadline, or when they are given up; those that have none, only
    /// then.
    #[must_use]
    pub fn drop() -> Self {
        Self::new(Effect::End(End::Drop))
    }

    /// Sets the message of an [`error`](Self::error) (default: that a fault was injected).
    #[must_use]
    pub fn message(mut self, text: impl Into<Cow<'static, str>>) -> Self {
        if let Effect::End(End::Error { message, .. }) = &mut self.effect {
            *message = text.into();
        }
        self
    }

    /// Lets an [`error`](Self::error) say that no handler saw the call, as that of a server that is about to leave: at a client it is sent again at once,
    /// elsewhere, if its code may pass, as UNAVAILABLE.
    #[must_use]
    pub fn unseen(mut self) -> Self {
        if let Effect::End(End::Error { is_unseen, .. }) = &mut self.effect {
            *is_unseen = true;
        }
        self
    }

    /// Narrows it down to so many calls of a hundred, by chance (default: 100; 0 to 100, what is beyond counts as that).
    #[must_use]
    pub fn percent(mut self, percent: f64) -> Self {
        self.share = if percent.is_nan() {
            0.0
        } else {
            (percent / 100.0).clamp(0.0, 1.0)
        };
        self
    }

    /// Chooses by the value of a key of metadata instead of by chance: of a hundred values so many meet it, and those always. Calls without the key do not.
    #[must_use]
    pub fn by_key(mut self, key: impl Into<String>) -> Self {
        self.by_key = Some(key.into());
        self
    }

    /// Narrows it down to a method, as `shop.Orders/place`, or to all of a service, as `shop.Orders`.
    #[must_use]
    pub fn method(mut self, path: impl Into<String>) -> Self {
        self.method = Some(path.into());
        self
    }

    /// Narrows it down to calls with that value of a key of metadata.
    #[must_use]
    pub fn only(mut self, key: impl Into<String>, value: impl AsRef<[u8]>) -> Self {
        self.only = Some((key.into(), value.as_ref().to_vec()));
        self
    }

    /// Narrows it down to attempts at one endpoint, by its name as the channel's snapshot has it; for channels to several.
    #[must_use]
    pub fn endpoint(mut self, name: impl Into<String>) -> Self {
        self.endpoint = Some(name.into());
        self
    }

    /// Ends it by itself, so long after it was set: nobody has to remember to. If the time is text that is none, the calls that it would have been about end
    /// with INTERNAL.
    #[must_use]
    pub fn lasts(mut self, time: impl IntoDuration) -> Self {
        match time.into_duration() {
            Ok(time) => self.lasts = Some(time),
            Err(error) => self.effect = Self::wrong(&format_args!("how long it lasts: {error}")).effect,
        }
        self
    }

    pub(crate) fn how_long(&self) -> Option<Duration> {
        self.lasts
    }

    /// Narrows it down to methods of that name, of whichever service.
    pub(crate) fn method_name(mut self, name: String) -> Self {
        self.name = Some(name);
        self
    }

    /// Narrows it down to methods of one service.
    pub(crate) fn of_service(mut self, service: &str) -> Self {
        self.service = Some(service.to_owned());
        self
    }

    fn is_about(&self, seen: &Seen<'_>) -> bool {
        let is_of_method = |method: &String| {
            let rest = seen.path.strip_prefix(method.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let has_value = |(key, value): &(String, Vec<u8>)| seen.metadata.get_bytes(key) == Some(value.as_slice());
        let (service, name) = seen.path.rsplit_once('/').unwrap_or((seen.path, ""));
        self.method.as_ref().is_none_or(is_of_method)
            && self.service.as_ref().is_none_or(|of| of == service)
            && self.name.as_ref().is_none_or(|of| of == name)
            && self.endpoint.as_ref().is_none_or(|endpoint| endpoint == seen.endpoint)
            && self.only.as_ref().is_none_or(has_value)
    }

    /// `random` is uniform in 0..1.
    fn meets(&self, seen: &Seen<'_>, random: f64) -> bool {
        if !self.is_about(seen) {
            return false;
        }
        match &self.by_key {
            None => random < self.share,
            Some(key) => seen.metadata.get_bytes(key).is_some_and(|value| part_of(value) < self.share),
        }
    }
}

/// Where a value falls in 0..1, whoever asks.
fn part_of(value: &[u8]) -> f64 {
    // The upper half is as good as all of it, and fits.
    f64::from((hash(value) >> 32) as u32) / (f64::from(u32::MAX) + 1.0)
}

/// What becomes of a call under these faults: all delays that it meets, and the first end. `random` is uniform in 0..1, anew for each.
pub(crate) fn meet<'f>(
    faults: impl IntoIterator<Item = &'f Fault>,
    seen: &Seen<'_>,
    mut random: impl FnMut() -> f64,
) -> Met {
    let mut met = Met::default();
    for fault in faults.into_iter().filter(|fault| fault.meets(seen, random())) {
        match &fault.effect {
            Effect::Delay(delay) => met.delay += *delay,
            Effect::End(end) => {
                met.end = Some(end.clone());
                break;
            }
        }
    }
    met
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(entries: &[(&'static str, &str)]) -> Metadata {
        let mut metadata = Metadata::new();
        for (key, value) in entries {
            metadata.insert(*key, value).unwrap();
        }
        metadata
    }

    fn met(faults: &[Fault], path: &str, metadata: &Metadata, random: f64) -> Met {
        let seen = Seen {
            path,
            metadata,
            endpoint: "orders-1",
        };
        meet(faults, &seen, || random)
    }

    #[test]
    fn a_fault_is_met_by_what_it_is_about() {
        let acme = metadata(&[("tenant", "acme")]);
        for (fault, path, is_met) in [
            (Fault::drop(), "shop.Orders/place", true),
            (Fault::drop().method("shop.Orders/place"), "shop.Orders/place", true),
            (Fault::drop().method("shop.Orders"), "shop.Orders/place", true),
            (Fault::drop().method("shop.Orders"), "shop.OrdersV2/place", false),
            (Fault::drop().method("shop.Orders/pl"), "shop.Orders/place", false),
            (Fault::drop().method("shop.Orders/place"), "shop.Orders", false),
            (Fault::drop().only("tenant", "acme"), "a/b", true),
            (Fault::drop().only("tenant", "acm"), "a/b", false),
            (Fault::drop().only("tier", "acme"), "a/b", false),
            (Fault::drop().endpoint("orders-1"), "a/b", true),
            (Fault::drop().endpoint("orders-12"), "a/b", false),
            (Fault::drop().method_name("place".to_owned()), "shop.Orders/place", true),
            (
                Fault::drop().method_name("place".to_owned()),
                "shop.Orders/replace",
                false,
            ),
            (Fault::drop().of_service("shop.Orders"), "shop.Orders/place", true),
            (Fault::drop().of_service("shop"), "shop.Orders/place", false),
        ] {
            assert_eq!(
                met(std::slice::from_ref(&fault), path, &acme, 0.0).end.is_some(),
                is_met,
                "{fault:?}"
            );
        }
    }

    #[test]
    fn shares_are_of_calls_or_of_keys() {
        for (percent, random, is_met) in [
            (10.0, 0.099, true),
            (10.0, 0.1, false),
            (0.0, 0.0, false),
            (100.0, 0.999_999, true),
            (250.0, 0.999_999, true),
            (-1.0, 0.0, false),
            (f64::NAN, 0.0, false),
        ] {
            let fault = Fault::drop().percent(percent);
            assert_eq!(
                met(&[fault], "a/b", &Metadata::new(), random).end.is_some(),
                is_met,
                "{percent} {random}"
            );
        }
        let fault = [Fault::drop().percent(10.0).by_key("tenant")];
        let chosen = |tenant: u32| {
            let metadata = metadata(&[("tenant", &tenant.to_string())]);
            let [one, other] = [0.0, 0.9].map(|random| met(&fault, "a/b", &metadata, random));
            assert_eq!(one, other, "always, or never");
            one.end.is_some()
        };
        let count = (0..10_000).filter(|tenant| chosen(*tenant)).count();
        assert!((900..1_100).contains(&count), "{count} of 10,000 tenants");
        assert_eq!(
            met(&fault, "a/b", &Metadata::new(), 0.0),
            Met::default(),
            "it has no key"
        );
    }

    #[test]
    fn delays_add_up_and_the_first_end_counts() {
        let faults = [
            Fault::delay("200ms"),
            Fault::delay("50ms").percent(50.0),
            Fault::error(Code::Internal).message("on purpose").percent(50.0),
            Fault::drop(),
            Fault::delay("1h"),
        ];
        let none = Metadata::new();
        let End::Error {
            code,
            message,
            is_unseen,
        } = met(&faults, "a/b", &none, 0.2).end.unwrap()
        else {
            panic!("that comes first")
        };
        assert_eq!((code, &*message, is_unseen), (Code::Internal, "on purpose", false));
        assert_eq!(met(&faults, "a/b", &none, 0.2).delay, Duration::from_millis(250));
        assert_eq!(
            met(&faults, "a/b", &none, 0.7),
            Met {
                delay: Duration::from_millis(200),
                end: Some(End::Drop)
            }
        );
        assert_eq!(met(&faults[4..], "a/b", &none, 0.7).delay, DELAY_MAX);
    }

    #[test]
    fn a_delay_that_is_none_is_told_of() {
        let End::Error {
            code,
            message,
            is_unseen,
        } = met(&[Fault::delay("soon")], "a/b", &Metadata::new(), 0.0).end.unwrap()
        else {
            panic!("it is an error")
        };
        assert_eq!((code, is_unseen), (Code::Internal, true));
        assert!(message.starts_with("a fault is set wrong: its delay: "), "{message}");
    }
}

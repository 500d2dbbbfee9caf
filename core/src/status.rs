//! How a call failed: code, message, details, where it arose and whether the handler may have run.
//!
//! A [`Status`] is one pointer wide, so a `Result<T, Status>` costs no more than `T`.
//! Retry decides on [`Status::handler_ran`], never on the text.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::code::Code;
use crate::metadata::{Metadata, MetadataError};

/// The metadata key of what turned a call away.
pub const POLICY_KEY: &str = "sinew-policy";
/// The policy of a server that has more to do than it can.
pub const OVERLOAD_POLICY: &str = "adaptive_concurrency";
/// The metadata key of why it did.
pub const REASON_KEY: &str = "sinew-reason";
/// The metadata key of when the call may be made again, in milliseconds.
pub const RETRY_AFTER_KEY: &str = "retry-after-ms";
/// More is taken for this: who has nothing to do for a day need not be asked before.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(24);

/// Where a [`Status`] arose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// In this process, before or instead of the network: a limit, a deadline, a wrong argument, a handler.
    Local,
    /// In the connection that carried the call.
    Transport,
    /// In the peer, which said so.
    Remote,
}

/// Whether the handler of a failed call may have run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HandlerRan {
    /// It provably did not: the request never left, or the server said that it did not process it.
    No,
    /// Nobody can tell: the request left and no answer came.
    Maybe,
    /// It did, or the server answered in its place.
    Yes,
}

/// The error side of every call.
///
/// # Examples
/// ```
/// # mod sinew { pub use sinew_core::{code::Code, status::Status}; }
/// use sinew::{Code, Status};
///
/// let status = Status::not_found("no order 7");
/// assert_eq!(status.code(), Code::NotFound);
/// assert_eq!(status.to_string(), "NOT_FOUND: no order 7");
/// ```
#[derive(Clone)]
pub struct Status(Box<Inner>);

#[derive(Clone)]
struct Inner {
    code: Code,
    origin: Origin,
    ran: HandlerRan,
    retryable: Option<bool>,
    message: Cow<'static, str>,
    details: Bytes,
    app: Bytes,
    metadata: Metadata,
    source: Option<Arc<dyn Error + Send + Sync>>,
    /// It is what a call came to that was made here: what it says of a handler is not about the one that passes it on.
    is_of_a_call: bool,
    /// A server said so in an END.
    is_from_server: bool,
    /// What it carries is meant for the caller of whoever was told.
    is_passed_on: bool,
    /// It is the doing of whoever made the call, and of nobody who was called.
    is_callers_own: bool,
}

impl Status {
    /// A status that arose here.
    #[must_use]
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            code,
            origin: Origin::Local,
            ran: HandlerRan::Yes,
            retryable: None,
            message: message.into(),
            details: Bytes::new(),
            app: Bytes::new(),
            metadata: Metadata::new(),
            source: None,
            is_of_a_call: false,
            is_from_server: false,
            is_passed_on: false,
            is_callers_own: false,
        }))
    }

    /// The class of the failure.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// What went wrong, for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Machine-readable details that the server attached; empty if none.
    #[must_use]
    pub fn details(&self) -> &[u8] {
        &self.0.details
    }

    /// The trailers that came with the status.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }

    /// The trailers, to add to.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        &mut self.0.metadata
    }

    /// Where the status arose.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.0.origin
    }

    /// Whether the handler may have run.
    #[must_use]
    pub fn handler_ran(&self) -> HandlerRan {
        self.0.ran
    }

    /// Whether the same call may succeed when tried again: the code says so, unless the error's own rule overrides it.
    ///
    /// Says nothing about safety: a call that is not idempotent may be repeated only when [`Status::handler_ran`] is
    /// [`HandlerRan::No`].
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.retryable.unwrap_or(matches!(
            self.0.code,
            Code::Unavailable | Code::ResourceExhausted | Code::Aborted
        ))
    }

    /// The policy that turned the call away before a handler saw it, as `adaptive_concurrency` or `rate_limit`; `None` if none did. `fault_injection` says
    /// that the failure was made on purpose, whatever else it says.
    #[must_use]
    pub fn policy(&self) -> Option<&str> {
        self.0.metadata.get(POLICY_KEY)
    }

    /// Why that policy turned the call away, as one word for machines: `overloaded`, `too_many_requests`; the message says it for people.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.0.metadata.get(REASON_KEY)
    }

    /// When the call may be made again at the earliest, as whoever turned it away hopes; at most a day.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        let millis = self.0.metadata.get(RETRY_AFTER_KEY)?.parse().ok()?;
        Some(Duration::from_millis(millis).min(RETRY_AFTER_MAX))
    }

    /// The application error in its encoded form; empty if there is none.
    #[must_use]
    pub fn app_bytes(&self) -> &Bytes {
        &self.0.app
    }

    /// Sets the message.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<Cow<'static, str>>) -> Self {
        self.0.message = message.into();
        self
    }

    /// Sets the details.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<Bytes>) -> Self {
        self.0.details = details.into();
        self
    }

    /// Sets the encoded application error.
    #[must_use]
    pub fn with_app_bytes(mut self, app: impl Into<Bytes>) -> Self {
        self.0.app = app.into();
        self
    }

    /// Sets the trailers.
    #[must_use]
    pub fn with_metadata(mut self, metadata: Metadata) -> Self {
        self.0.metadata = metadata;
        self
    }

    /// Sets where the status arose.
    #[must_use]
    pub fn with_origin(mut self, origin: Origin) -> Self {
        self.0.origin = origin;
        self
    }

    /// Sets whether the handler may have run.
    #[must_use]
    pub fn with_handler_ran(mut self, ran: HandlerRan) -> Self {
        self.0.ran = ran;
        self
    }

    /// Overrides what the code says about retrying.
    #[must_use]
    pub fn with_retryable(mut self, retryable: bool) -> Self {
        self.0.retryable = Some(retryable);
        self
    }

    /// Names the policy that turned the call away, and why; both are a word of lower case, digits and underscores, or they are left out. The handler did not
    /// run, so the call may be made again whatever it does: only for interceptors, and for handlers before they have done anything.
    ///
    /// # Examples
    /// ```
    /// # mod sinew { pub use sinew_core::status::Status; }
    /// use std::time::Duration;
    ///
    /// use sinew::Status;
    ///
    /// let status = Status::resource_exhausted("10 exports a day are free")
    ///     .with_rejection("daily_quota", "quota_used_up")
    ///     .with_retry_after(Duration::from_secs(3_600));
    /// assert_eq!(status.policy(), Some("daily_quota"));
    /// assert_eq!(status.retry_after(), Some(Duration::from_secs(3_600)));
    /// ```
    #[must_use]
    pub fn with_rejection(mut self, policy: &str, reason: &str) -> Self {
        for (key, word) in [(POLICY_KEY, policy), (REASON_KEY, reason)] {
            if is_word(word) {
                // Key and value keep the rules.
                let _valid = self.0.metadata.insert(key, word);
            }
        }
        self.0.ran = HandlerRan::No;
        self
    }

    /// Says when the call may be made again at the earliest, in whole milliseconds.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        // A number keeps the rules.
        let _valid = self.0.metadata.insert(RETRY_AFTER_KEY, after.min(RETRY_AFTER_MAX).as_millis().to_string());
        self
    }

    /// Keeps the cause, for [`Error::source`]; it never travels.
    #[must_use]
    pub fn with_source(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// The same status as one of this server's own: for a handler that passes on, as it is, what another server said.
    ///
    /// A status that came from elsewhere ([`Status::origin`]) and is returned without this travels on with its code and its message only: details,
    /// application error and metadata were meant for this server, and its callers would take the application error for one of this method's.
    #[must_use]
    pub fn pass_on(mut self) -> Self {
        self.0.is_passed_on = true;
        self.with_origin(Origin::Local)
    }

    /// What a server tells its caller of this status; for the runtime.
    #[doc(hidden)]
    #[must_use]
    pub fn into_answer(mut self) -> Self {
        let is_of_a_call = self.0.is_of_a_call || self.0.origin != Origin::Local;
        // What was said of a call of the handler's, as when to come back or that nothing was sent, is not said of this one.
        if is_of_a_call && !self.0.is_passed_on {
            self.0.details = Bytes::new();
            self.0.app = Bytes::new();
            self.0.metadata = Metadata::new();
            self.0.retryable = None;
        }
        // Nor does it tell anything about whether this handler ran: it did.
        if is_of_a_call {
            self.0.ran = HandlerRan::Yes;
        }
        self
    }

    /// Whether it says of a call to this process that its handler did not begin.
    pub(crate) fn was_not_begun(&self) -> bool {
        self.0.ran == HandlerRan::No && self.0.origin == Origin::Local && !self.0.is_of_a_call
    }

    /// The same status as the doing of whoever made the call: it tells nothing of those who were called.
    pub(crate) fn callers_own(mut self) -> Self {
        self.0.is_callers_own = true;
        self
    }

    pub(crate) fn is_callers_own(&self) -> bool {
        self.0.is_callers_own
    }

    /// The same status as what a call came to, for whoever made it.
    pub(crate) fn of_a_call(mut self) -> Self {
        self.0.is_of_a_call = true;
        self
    }

    /// The same status as one that a server answered with.
    pub(crate) fn answered_by_server(mut self) -> Self {
        self.0.is_from_server = true;
        self
    }

    /// Whether a server answered with it: then it took the call up, if only to turn it away.
    pub(crate) fn is_from_server(&self) -> bool {
        self.0.is_from_server
    }

    /// What the error's own rule says about retrying, if it has one.
    #[must_use]
    pub fn retryable_override(&self) -> Option<bool> {
        self.0.retryable
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

/// Metadata that a handler or an interceptor cannot set is its own fault: INTERNAL.
impl From<MetadataError> for Status {
    fn from(error: MetadataError) -> Self {
        Self::internal(error.to_string()).with_source(error)
    }
}

macro_rules! constructors {
    ($($name:ident => $code:ident, $when:literal;)*) => {
        impl Status {
            $(
                #[doc = concat!("A [`Code::", stringify!($code), "`] status: ", $when, ".")]
                #[must_use]
                pub fn $name(message: impl Into<Cow<'static, str>>) -> Self {
                    Self::new(Code::$code, message)
                }
            )*
        }
    };
}

constructors! {
    cancelled => Cancelled, "the caller gave up";
    unknown => Unknown, "nothing more is known";
    invalid_argument => InvalidArgument, "the request is wrong in itself";
    deadline_exceeded => DeadlineExceeded, "time ran out";
    not_found => NotFound, "the thing does not exist";
    already_exists => AlreadyExists, "the thing exists already";
    permission_denied => PermissionDenied, "the caller may not do this";
    resource_exhausted => ResourceExhausted, "a limit is reached";
    failed_precondition => FailedPrecondition, "the system is in the wrong state";
    aborted => Aborted, "a race was lost";
    out_of_range => OutOfRange, "past the valid range";
    unimplemented => Unimplemented, "no such method here";
    internal => Internal, "an invariant broke";
    unavailable => Unavailable, "not reachable now";
    data_loss => DataLoss, "data is gone";
    unauthenticated => Unauthenticated, "the caller is not known";
}

impl PartialEq for Status {
    /// Equal in what travels: code, message, details, application error and metadata.
    fn eq(&self, other: &Self) -> bool {
        self.0.code == other.0.code
            && self.0.message == other.0.message
            && self.0.details == other.0.details
            && self.0.app == other.0.app
            && self.0.metadata == other.0.metadata
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.message.is_empty() {
            return write!(f, "{}", self.0.code);
        }
        write!(f, "{}: {}", self.0.code, self.0.message)
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Status");
        out.field("code", &self.0.code)
            .field("message", &self.0.message)
            .field("origin", &self.0.origin)
            .field("handler_ran", &self.0.ran);
        if !self.0.details.is_empty() {
            out.field("details_bytes", &self.0.details.len());
        }
        if !self.0.app.is_empty() {
            out.field("app_bytes", &self.0.app.len());
        }
        if !self.0.metadata.is_empty() {
            out.field("metadata", &self.0.metadata);
        }
        if let Some(source) = &self.0.source {
            out.field("source", source);
        }
        out.finish()
    }
}

impl Error for Status {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{HandlerRan, Origin, Status};
    use crate::code::Code;

    #[test]
    fn a_status_is_one_pointer() {
        assert_eq!(size_of::<Status>(), size_of::<usize>());
        assert_eq!(size_of::<Result<(), Status>>(), size_of::<usize>());
    }

    #[test]
    fn retryable_follows_the_code_unless_overridden() {
        assert!(Status::unavailable("x").is_retryable());
        assert!(!Status::not_found("x").is_retryable());
        assert!(!Status::unavailable("x").with_retryable(false).is_retryable());
    }

    #[test]
    fn a_rejection_names_its_policy_and_when_to_come_back() {
        let status = Status::resource_exhausted("x").with_rejection("rate_limit", "too_many_requests");
        assert_eq!(
            (status.policy(), status.reason()),
            (Some("rate_limit"), Some("too_many_requests"))
        );
        assert_eq!((status.handler_ran(), status.retry_after()), (HandlerRan::No, None));
        let wrong = Status::resource_exhausted("x").with_rejection("Rate limit", "");
        assert_eq!((wrong.policy(), wrong.reason()), (None, None));
        for (said, read) in [
            (Duration::ZERO, Duration::ZERO),
            (Duration::from_micros(1_999), Duration::from_millis(1)),
            (Duration::MAX, super::RETRY_AFTER_MAX),
        ] {
            assert_eq!(status.clone().with_retry_after(said).retry_after(), Some(read));
        }
        for text in ["", "-1", "soon", "1.5", "99999999999999999999999"] {
            let mut metadata = status.metadata().clone();
            metadata.insert(super::RETRY_AFTER_KEY, text).unwrap();
            assert_eq!(status.clone().with_metadata(metadata).retry_after(), None, "{text}");
        }
    }

    #[test]
    fn equality_ignores_where_it_arose() {
        let here = Status::new(Code::Aborted, "race");
        let there = here.clone().with_origin(Origin::Remote).with_handler_ran(HandlerRan::Maybe);
        assert_eq!(here, there);
    }
}

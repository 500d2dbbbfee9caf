//! Application errors: the typed error of a method, and how it travels inside a status.

use std::fmt;

use crate::code::Code;
use crate::method::Encoding;
use crate::status::Status;
use crate::wire::codec;

use super::shape::Wire;

/// The error type of a method; derive it with `#[derive(AppError)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the error of a method",
    label = "no `AppError`",
    note = "add `#[derive(sinew::AppError)]` to it (with Serialize, Deserialize and Display), or return `Status`"
)]
pub trait AppError: Sized + Send + 'static {
    /// What the client gets: [`CallError`] of this type, or [`Status`] for `Status` itself.
    type OnClient: FromStatus;

    /// The class of this error.
    fn code(&self) -> Code;

    /// The status that carries this error.
    fn into_status(self) -> Status;
}

impl AppError for Status {
    type OnClient = Self;

    fn code(&self) -> Code {
        Self::code(self)
    }

    fn into_status(self) -> Status {
        self
    }
}

/// The client's side of an error: made from the status that arrived.
#[diagnostic::on_unimplemented(
    message = "a call cannot fail with `{Self}`",
    label = "not what a client gets",
    note = "an error type named `Status` is taken for `sinew::Status`: give an error of your own another name"
)]
pub trait FromStatus: Sized + Send + 'static {
    /// Reads the application error out of the status, if it is there and known.
    fn from_status(status: Status) -> Self;
}

impl FromStatus for Status {
    fn from_status(status: Status) -> Self {
        status
    }
}

/// How a call of a method with an error type of its own fails.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "callers match it: the application's error, or everything else"
)]
pub enum CallError<E> {
    /// The handler returned this error.
    App(E),
    /// Anything else: deadline, network, limits, or an error of a newer version of the service.
    Status(Status),
}

impl<E> CallError<E> {
    /// The status, if it is no application error.
    #[must_use]
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::App(_) => None,
            Self::Status(status) => Some(status),
        }
    }

    /// The application error, if it is one.
    #[must_use]
    pub fn app(&self) -> Option<&E> {
        match self {
            Self::App(error) => Some(error),
            Self::Status(_) => None,
        }
    }
}

impl<E: AppError> CallError<E> {
    /// The class of the failure.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::App(error) => error.code(),
            Self::Status(status) => status.code(),
        }
    }
}

impl<E: Wire> FromStatus for CallError<E> {
    fn from_status(status: Status) -> Self {
        match status.app::<E>() {
            Some(error) => Self::App(error),
            None => Self::Status(status),
        }
    }
}

impl<E> From<Status> for CallError<E> {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

/// For handlers that answer with a plain status: the application error of the service that was called keeps its code and its text.
impl<E: AppError + fmt::Display> From<CallError<E>> for Status {
    fn from(error: CallError<E>) -> Self {
        match error {
            CallError::App(error) => Self::new(error.code(), error.to_string()),
            CallError::Status(status) => status,
        }
    }
}

impl<E: fmt::Display> fmt::Display for CallError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::App(error) => error.fmt(f),
            Self::Status(status) => status.fmt(f),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for CallError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::App(error) => error.source(),
            Self::Status(status) => status.source(),
        }
    }
}

impl Status {
    /// The application error that this status carries.
    ///
    /// `None` if it carries none, or one that this version of `E` does not know: then code and message still tell what happened.
    #[must_use]
    pub fn app<E: Wire>(&self) -> Option<E> {
        if self.app_bytes().is_empty() {
            return None;
        }
        codec::decode(self.app_bytes()).ok()
    }
}

/// The status that carries an application error: its code, its text, and the error itself.
pub fn app_status<E: Wire + fmt::Display>(code: Code, retryable: Option<bool>, error: &E) -> Status {
    let mut app = Vec::new();
    let mut status = Status::new(code, error.to_string());
    // Named, whatever the service's encoding: errors change more often than they matter for speed.
    match codec::encode_into(&mut app, error, Encoding::Named) {
        Ok(()) => status = status.with_app_bytes(app),
        Err(failed) => {
            tracing::warn!(error = %failed, "an application error cannot be encoded; only its code and text travel");
        }
    }
    match retryable {
        Some(retryable) => status.with_retryable(retryable),
        None => status,
    }
}

/// The handler's own result type out of a client's: for clients that implement the service trait.
///
/// # Errors
/// The application error, or the status as one.
pub fn flatten<T, E: AppError + From<Status>>(result: Result<T, E::OnClient>) -> Result<T, E>
where
    E::OnClient: IntoApp<E>,
{
    result.map_err(IntoApp::into_app)
}

/// The application error behind a client's error.
pub trait IntoApp<E> {
    /// The application error; a status becomes one.
    fn into_app(self) -> E;
}

impl IntoApp<Self> for Status {
    fn into_app(self) -> Self {
        self
    }
}

impl<E: From<Status>> IntoApp<E> for CallError<E> {
    fn into_app(self) -> E {
        match self {
            Self::App(error) => error,
            Self::Status(status) => E::from(status),
        }
    }
}

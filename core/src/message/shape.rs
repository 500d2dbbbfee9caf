//! The traits that generated code projects types through: what travels, and what a method's return type comes to.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::app_error::AppError;
use super::streaming::Streaming;
use super::{Body, Outcome, Reply};
use crate::code::Code;
use crate::method::MethodSpec;
use crate::status::Status;
use crate::wire::codec;
use crate::wire::message::Payload;

/// What can travel over the wire: every owned type that serde can write and read.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot travel over the wire",
    label = "cannot travel over the wire",
    note = "add `#[derive(serde::Serialize, serde::Deserialize)]` to it; borrowed data, handles and closures cannot travel",
    note = "a stream travels as `Streaming<T>`, an argument or the return itself, and not inside of another type"
)]
pub trait Wire: Serialize + DeserializeOwned + Send + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + Send + 'static> Wire for T {}

/// What a method answers with: one value, or a stream of them.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot travel over the wire",
    label = "cannot travel over the wire",
    note = "add `#[derive(serde::Serialize, serde::Deserialize)]` to it, or to the items if it is a stream; borrowed data, handles and closures cannot travel",
    note = "a `Result` under another name has to be called `Result`"
)]
pub trait ReplyShape: Send + Sized + 'static {
    /// Whether it is a stream.
    const STREAMING: bool;

    /// The reply that carries it.
    ///
    /// # Errors
    /// INTERNAL if it cannot be encoded.
    fn into_reply(self, spec: &'static MethodSpec) -> Outcome;

    /// Reads it out of a reply.
    ///
    /// # Errors
    /// INTERNAL if the reply has another form.
    fn from_body(body: Body, spec: &'static MethodSpec) -> Result<Self, Status>;
}

#[diagnostic::do_not_recommend]
impl<T: Wire> ReplyShape for T {
    const STREAMING: bool = false;

    fn into_reply(self, spec: &'static MethodSpec) -> Outcome {
        match codec::encode_message(self, spec.wire_encoding()) {
            Ok(message) => Ok(Reply::new(Body::Encoded(message))),
            Err(error) => Err(Status::internal(format!(
                "the response of {} cannot be encoded: {error}",
                spec.path()
            ))),
        }
    }

    fn from_body(body: Body, spec: &'static MethodSpec) -> Result<Self, Status> {
        let payload = match body {
            Body::Received(payload) => payload,
            Body::Encoded(message) => message.to_payload(),
            Body::Empty => Payload::empty(),
            Body::Stream(_) => return Err(Status::internal(format!("{} answered with a stream", spec.path()))),
        };
        codec::decode_payload(&payload)
            .map_err(|error| Status::internal(format!("the response of {} has another type: {error}", spec.path())))
    }
}

impl<T: Wire> ReplyShape for Streaming<T> {
    const STREAMING: bool = true;

    fn into_reply(self, spec: &'static MethodSpec) -> Outcome {
        Ok(Reply::new(Body::Stream(self.into_messages(spec.wire_encoding()))))
    }

    fn from_body(body: Body, spec: &'static MethodSpec) -> Result<Self, Status> {
        match body {
            Body::Stream(stream) => Ok(Self::remote(stream, Code::Internal)),
            Body::Empty => Ok(Self::empty()),
            Body::Encoded(_) | Body::Received(_) => {
                Err(Status::internal(format!("{} answered without a stream", spec.path())))
            }
        }
    }
}

/// A fallible return; implemented for `Result` only.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is named `Result` but is no `std::result::Result`",
    label = "not a `Result`",
    note = "write `Result<T, E>`, or an alias of it that is called `Result`"
)]
pub trait Returns {
    /// What it returns on success.
    type Ok;
    /// What it returns on failure.
    type Err;
}

impl<T, E> Returns for Result<T, E> {
    type Ok = T;
    type Err = E;
}

/// Answers with what a fallible handler returned.
///
/// # Errors
/// The handler's error as a status, or INTERNAL if its value cannot be encoded.
pub fn respond<T: ReplyShape, E: AppError>(result: Result<T, E>, spec: &'static MethodSpec) -> Outcome {
    match result {
        Ok(value) => value.into_reply(spec),
        Err(error) => Err(error.into_status()),
    }
}

/// Answers with what an infallible handler returned.
///
/// # Errors
/// INTERNAL if the value cannot be encoded.
pub fn respond_infallible<T: ReplyShape>(value: T, spec: &'static MethodSpec) -> Outcome {
    value.into_reply(spec)
}

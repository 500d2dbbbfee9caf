//! Codes of variants and of structs, and errors with parameters.

#![deny(warnings)]

use sinew::{AppError, Code, Status};

#[derive(Debug, thiserror::Error, serde::Serialize, serde::Deserialize, AppError)]
pub enum OrderError {
    #[error("no such order")]
    #[rpc(code = NotFound)]
    NotFound,
    #[error("out of {sku}")]
    #[rpc(code = FailedPrecondition, retry = never)]
    OutOfStock { sku: String },
    #[error("odd: {0} {1}")]
    Odd(u64, u64),
    #[error("{0}")]
    #[rpc(status)]
    #[serde(skip)]
    Rpc(#[from] Status),
}

#[derive(Debug, thiserror::Error, serde::Serialize, serde::Deserialize, AppError)]
#[error("over the limit of {limit}")]
#[rpc(code = ResourceExhausted, retry = never)]
pub struct OverLimit {
    limit: u64,
}

#[derive(Debug, thiserror::Error, serde::Serialize, serde::Deserialize, AppError)]
pub enum Generic<T: Sync> {
    #[error("this")]
    #[rpc(code = Aborted)]
    This(T),
}

#[derive(Debug, thiserror::Error, serde::Serialize, serde::Deserialize, AppError)]
pub enum Only {
    #[error("{0}")]
    #[rpc(status)]
    #[serde(skip)]
    Rpc(Status),
}

fn code<E: AppError>(error: E) -> Code {
    let code = error.code();
    assert_eq!(error.into_status().code(), code);
    code
}

fn main() {
    assert_eq!(code(OrderError::NotFound), Code::NotFound);
    assert_eq!(code(OrderError::OutOfStock { sku: "a".into() }), Code::FailedPrecondition);
    assert_eq!(code(OrderError::Odd(1, 2)), Code::Unknown);
    assert_eq!(code(OrderError::Rpc(Status::unimplemented("x"))), Code::Unimplemented);
    assert_eq!(code(OverLimit { limit: 1 }), Code::ResourceExhausted);
    assert_eq!(code(Generic::This(1_u64)), Code::Aborted);
    assert_eq!(code(Only::Rpc(Status::unimplemented("x"))), Code::Unimplemented);
    let status: Status = OrderError::NotFound.into();
    assert!(status.to_string().contains("no such order"));
}

//! Hostile peers over real sockets: every one gets its named error, a good client next to it notices nothing, and nothing is left behind.
//!
//! The numbers in the names are rows of the project's table of attacks and faults, which was collected from the incidents of other systems
//! (HTTP/2 floods, gRPC and yamux advisories, accept loops that died of EMFILE). Rows about TLS, QUIC, compression and discovery have no tests here.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "in a test, a broken expectation is a panic"
)]

mod arena;
mod bad;
mod calls;
mod client;
mod connections;
mod corpus;
mod floods;
mod memory;
mod wire;

#[path = "../support/child.rs"]
#[expect(dead_code, reason = "other test binaries use more of it")]
mod child;

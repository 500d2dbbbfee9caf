//! Hostile peers over real sockets: every one gets its named error, a good client next to it notices nothing, and nothing is left behind.
//!
//! The numbers in the names are rows of the project's table of attacks and faults, which was collected from the incidents of other systems
//! (HTTP/2 floods, gRPC and yamux advisories, accept loops that died of EMFILE). Rows about compression and discovery have no tests here.
//!
//! | rows | where |
//! |---|---|
//! | 1 to 9, 11, 12, 15, 16 | `wire` |
//! | 10, 17 to 22, 25, 47 | `floods` |
//! | 26, 28, 33 | `connections`; 33 of a server also in `client` |
//! | 26, 27, 29, 32 at a TLS port | `tls` |
//! | 23, 24, 34, 35, and 17, 26 and 29 at a QUIC port | `quic`; 34 of an address that changes in `tests/behaviour/quic.rs` |
//! | 30 | `failures_have_names` in `core/src/transport/tls/tests.rs`, and `tests/behaviour/tls.rs` |
//! | 31 | `certificates_change_under_load` in `tests/behaviour/tls.rs` |
//! | 36 to 39, 42 | `calls` |
//! | 40, 41, 43, 45 | `client`; 40 by SIGKILL in `tests/behaviour/processes.rs`; 41 of a server, during a drain, in `calls` |
//! | 46 | `floods`, and `memory` |
//! | 13, and the memory of 3, 10, 16 to 21 and 25 | `memory` |
//! | 44 | no policy retries yet; what is sent again without one is bounded in `client` (43) |
//! | 48 | `ten_thousand_connections` in `tests/behaviour/processes.rs` |
//! | 49 | `concurrent_large_unary` in `tests/behaviour/interop/cases.rs` |
//! | 50 | `ids_that_are_used_up_ask_for_another_connection` in `core/src/mux/tests/calls.rs` |
//! | 51 | deadlines travel as durations and are held against a monotonic clock, which `time` alone reads; nothing to attack |
//! | 52 | nothing is kept per peer or key yet, beyond its connection |

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
mod quic;
mod tls;
mod wire;

#[path = "../support/certs.rs"]
mod certs;
#[path = "../support/child.rs"]
#[expect(dead_code, reason = "other test binaries use more of it")]
mod child;
#[path = "../support/frames.rs"]
mod frames;
#[path = "../support/relay.rs"]
#[expect(dead_code, reason = "other test binaries use more of it")]
mod relay;

//! The interoperability cases of gRPC by their names, and the bad servers of its negative ones, over every fixture.
//!
//! Left out are the cases that need compression, credentials, caching or load balancing. Sizes and texts are gRPC's.
//! Source: gRPC "Interoperability Test Case Descriptions".

mod cases;
mod negative;
mod service;

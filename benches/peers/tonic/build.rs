//! Generates the service from its schema; needs protoc.

fn main() -> std::io::Result<()> {
    tonic_prost_build::configure().bytes(".").compile_protos(&["proto/bench.proto"], &["proto"])
}

//! Generates the service from its schema by volo's own generator.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    volo_build::Builder::thrift().add_service("idl/bench.thrift").write()?;
    Ok(())
}

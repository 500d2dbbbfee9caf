//! Generates the service from its schema; needs the capnp tool and the schema of its standard library.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    capnpc::CompilerCommand::new()
        .src_prefix("schema")
        .default_parent_module(vec!["schema".to_owned()])
        .import_path("/usr/include")
        .file("schema/bench.capnp")
        .run()?;
    Ok(())
}

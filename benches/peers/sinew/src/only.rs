//! `sinew` as a service of one endpoint: what the choice among many is compared with.

mod caller;
mod pooled;

fn main() -> std::process::ExitCode {
    load::run::<caller::Caller<pooled::Pooled<1>>>()
}

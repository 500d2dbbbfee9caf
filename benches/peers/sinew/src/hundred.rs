//! `sinew` as a service of a hundred endpoints.

mod caller;
mod pooled;

fn main() -> std::process::ExitCode {
    load::run::<caller::Caller<pooled::Pooled<100>>>()
}

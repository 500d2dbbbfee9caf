//! The `sinew` peer, in clear text.

mod caller;

fn main() -> std::process::ExitCode {
    load::run::<caller::Caller<false>>()
}

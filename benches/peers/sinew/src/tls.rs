//! The `sinew-tls` peer: the same with TLS 1.3, out of development certificates.

mod caller;

fn main() -> std::process::ExitCode {
    load::run::<caller::Caller<true>>()
}

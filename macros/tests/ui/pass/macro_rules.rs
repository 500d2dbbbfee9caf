//! The attribute inside a `macro_rules!` macro: values that it passes on are read like written ones.

use sinew::service;

macro_rules! contract {
    ($module:ident, $encoding:literal, $timeout:expr) => {
        mod $module {
            use super::*;

            #[service(name = "Bench", encoding = $encoding)]
            pub trait Bench {
                #[rpc(timeout = $timeout)]
                async fn echo(&self, text: String) -> String;
            }
        }
    };
}

contract!(compact, "compact", "2s");
contract!(named, "named", "300ms");

fn main() {
    assert_eq!(named::BenchClient::METHODS[0].timeout(), Some(std::time::Duration::from_millis(300)));
}

//! What the options of `#[service(..)]` and `#[rpc(..)]` say.
//!
//! A mistake in one option leaves the others in force.

use proc_macro2::{Span, TokenStream};
use syn::{Attribute, Expr, Ident, LitStr};

use crate::attr::{Opt, Value, parse_list, refuse_duplicates, take_rpc};
use crate::duration;
use crate::faults::Faults;
use crate::paths::Root;

/// How user structs are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Encoding {
    #[default]
    Named,
    Compact,
}

/// `#[service(..)]` on a trait.
#[derive(Default)]
pub(crate) struct ServiceOptions {
    pub(crate) name: Option<LitStr>,
    pub(crate) root: Root,
    pub(crate) encoding: Encoding,
    pub(crate) transparent: Option<Span>,
    pub(crate) dynamic: Option<Span>,
    pub(crate) mock: Option<Span>,
}

impl ServiceOptions {
    const KEYS: &'static [&'static str] = &["crate", "dyn", "encoding", "mock", "name", "transparent"];

    pub(crate) fn parse(tokens: TokenStream, faults: &mut Faults) -> Self {
        let list = parse_list(tokens, faults);
        refuse_duplicates(&list, &[], faults);
        let mut options = Self::default();
        for option in &list {
            options.set(option, faults);
        }
        options
    }

    fn set(&mut self, option: &Opt, faults: &mut Faults) {
        match option.key.to_string().as_str() {
            "name" => self.name = option.text("\"shop.Orders\"", faults),
            "crate" => self.root = option.path("::sinew", faults).map(Root::at).unwrap_or_default(),
            "encoding" => self.encoding = encoding(option, faults),
            "transparent" => self.transparent = option.flag(faults),
            "dyn" => self.dynamic = option.flag(faults),
            "mock" => self.mock = option.flag(faults),
            _ => faults.unknown("`#[service]` option", &option.key, Self::KEYS),
        }
    }
}

fn encoding(option: &Opt, faults: &mut Faults) -> Encoding {
    let Some(text) = option.text("\"compact\"", faults) else {
        return Encoding::Named;
    };
    match text.value().as_str() {
        "named" => {}
        "compact" => return Encoding::Compact,
        other => faults.on(
            &text,
            format!("unknown encoding `{other}`: write `\"named\"` (the default) or `\"compact\"`"),
        ),
    }
    Encoding::Named
}

/// `#[service(..)]` on an impl: only `crate` has a meaning there.
pub(crate) fn impl_root(tokens: TokenStream, faults: &mut Faults) -> Root {
    let mut root = Root::default();
    let list = parse_list(tokens, faults);
    refuse_duplicates(&list, &[], faults);
    for option in &list {
        if option.key == "crate" {
            root = option.path("::sinew", faults).map(Root::at).unwrap_or_default();
        } else {
            faults.on(
                &option.key,
                format!(
                    "`{}` belongs to the contract: put it in the `#[service(..)]` of the trait",
                    option.key
                ),
            );
        }
    }
    root
}

/// Where a handler runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Execution {
    #[default]
    Inline,
    Spawn,
    Blocking,
}

/// `#[rpc(..)]` on a method.
#[derive(Default)]
pub(crate) struct MethodOptions {
    pub(crate) name: Option<LitStr>,
    pub(crate) aliases: Vec<LitStr>,
    pub(crate) timeout_ms: Option<u64>,
    pub(crate) idempotent: Option<Span>,
    pub(crate) since: Option<u32>,
    pub(crate) meta: Vec<(Ident, LitStr)>,
    pub(crate) skip: Option<Span>,
    pub(crate) execution: Execution,
    pub(crate) allow_vec_u8: bool,
}

const METHOD_KEYS: &[&str] = &[
    "alias",
    "allow",
    "blocking",
    "idempotent",
    "meta",
    "name",
    "since",
    "skip",
    "spawn",
    "timeout",
];
const ARG_KEYS: &[&str] = &["allow", "default", "reserved", "since"];

impl MethodOptions {
    pub(crate) fn take(attrs: &mut Vec<Attribute>, faults: &mut Faults) -> Self {
        let list = take_rpc(attrs, faults);
        refuse_duplicates(&list, &["alias", "allow", "meta"], faults);
        let mut options = Self::default();
        for option in &list {
            options.set(option, faults);
        }
        if options.skip.is_some()
            && let Some(other) = list.iter().find(|option| option.key != "skip")
        {
            faults.on(
                &other.key,
                format!("a skipped function is no RPC: remove `{}`, or remove `skip`", other.key),
            );
        }
        options
    }

    fn set(&mut self, option: &Opt, faults: &mut Faults) {
        match option.key.to_string().as_str() {
            "name" => self.name = option.text("\"get\"", faults),
            "alias" => self.aliases.extend(option.text("\"fetch\"", faults)),
            "timeout" => self.timeout_ms = timeout(option, faults),
            "idempotent" => self.idempotent = option.flag(faults),
            "since" => self.since = option.number(faults),
            "meta" => self.add_meta(option, faults),
            "skip" => self.skip = option.flag(faults),
            "spawn" => self.execute(option, Execution::Spawn, faults),
            "blocking" => self.execute(option, Execution::Blocking, faults),
            "allow" => self.allow_vec_u8 |= allow(option, faults),
            key @ ("retry" | "hedge") => faults.on(&option.key, retry_advice(key)),
            "default" | "reserved" => {
                faults.on(
                    &option.key,
                    format!("`{}` goes on an argument, not on the method", option.key),
                );
            }
            _ => faults.unknown("`#[rpc]` option", &option.key, METHOD_KEYS),
        }
    }

    fn add_meta(&mut self, option: &Opt, faults: &mut Faults) {
        for entry in option.list("meta(role = \"admin\")", faults) {
            if let Some((earlier, _)) = self.meta.iter().find(|(earlier, _)| *earlier == entry.key) {
                faults.between(
                    earlier,
                    &entry.key,
                    format!(
                        "meta key `{}` is declared at both ends of this: keep one of the two",
                        entry.key
                    ),
                );
            }
            let text = entry.text("\"admin\"", faults);
            self.meta.extend(text.map(|text| (entry.key, text)));
        }
    }

    fn execute(&mut self, option: &Opt, execution: Execution, faults: &mut Faults) {
        option.flag(faults);
        if self.execution != Execution::Inline && self.execution != execution {
            faults.on(
                &option.key,
                "`spawn` and `blocking` exclude each other: keep one of the two",
            );
        }
        self.execution = execution;
    }
}

fn retry_advice(key: &str) -> String {
    let now = if key == "hedge" {
        "a caller that cannot wait gives its channel a `HedgingPolicy`"
    } else {
        "clients try such calls again by their `RetryPolicy`, and what provably did not run is sent again by itself"
    };
    format!(
        "`{key}` is the caller's choice, not part of the contract: declare `#[rpc(idempotent)]`, which allows it; {now}"
    )
}

fn timeout(option: &Opt, faults: &mut Faults) -> Option<u64> {
    let text = option.text("\"300ms\"", faults)?;
    match duration::parse_ms(&text.value()) {
        Ok(ms) => Some(ms),
        Err(why) => {
            faults.on(&text, format!("invalid duration `{}`; {why}", text.value()));
            None
        }
    }
}

/// `allow(vec_u8)`; the only rule that can be switched off.
fn allow(option: &Opt, faults: &mut Faults) -> bool {
    for entry in option.list("allow(vec_u8)", faults) {
        if entry.key != "vec_u8" {
            faults.unknown("rule in `allow`", &entry.key, &["vec_u8"]);
        }
    }
    true
}

/// `#[rpc(..)]` on an argument.
#[derive(Default)]
pub(crate) struct ArgOptions {
    /// `default` alone is `Some(None)`.
    pub(crate) default: Option<Option<Expr>>,
    pub(crate) reserved: Option<Span>,
    pub(crate) since: Option<(u32, Span)>,
    pub(crate) allow_vec_u8: bool,
}

impl ArgOptions {
    pub(crate) fn take(attrs: &mut Vec<Attribute>, faults: &mut Faults) -> Self {
        let list = take_rpc(attrs, faults);
        refuse_duplicates(&list, &["allow"], faults);
        let mut options = Self::default();
        for option in &list {
            options.set(option, faults);
        }
        options
    }

    fn set(&mut self, option: &Opt, faults: &mut Faults) {
        match option.key.to_string().as_str() {
            "default" => {
                self.default = match &option.value {
                    Value::Is(expr) => Some(Some(Expr::clone(expr))),
                    Value::Flag => Some(None),
                    Value::List(_) => {
                        faults.on(&option.key, "write `default` or `default = value`");
                        Some(None)
                    }
                }
            }
            "reserved" => self.reserved = option.flag(faults),
            "since" => self.since = option.number(faults).map(|since| (since, option.key.span())),
            "allow" => self.allow_vec_u8 |= allow(option, faults),
            key if METHOD_KEYS.contains(&key) => {
                faults.on(&option.key, format!("`{key}` goes on the method, not on an argument"));
            }
            _ => faults.unknown("`#[rpc]` option", &option.key, ARG_KEYS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The documentation of `#[service]` has a row for each option, under the heading of its place.
    #[test]
    fn every_option_is_documented() {
        let docs = include_str!("lib.rs");
        let place = |from: &str| {
            let (_, rest) = docs.split_once(from).expect("the heading is there");
            rest.split("\n/// # ").next().unwrap_or_default()
        };
        for (heading, keys) in [
            ("# Options of the trait", ServiceOptions::KEYS),
            ("# Options of a method", METHOD_KEYS),
            ("# Options of an argument", ARG_KEYS),
        ] {
            let table = place(heading);
            for key in keys {
                assert!(
                    table.contains(&format!("/// | `{key}` | ")),
                    "{key} is not under {heading}"
                );
            }
        }
    }
}

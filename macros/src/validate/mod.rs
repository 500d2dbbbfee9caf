//! The rules of a contract, each pushing to `Faults`.
//!
//! Rules on the trait as a whole are here, those on one method in `method`, those on its types in
//! `types`. Of several faults in one place the most telling is reported and the others are not.

mod method;
mod types;

pub(crate) use method::is_taken;

use quote::ToTokens;
use syn::{GenericParam, Ident, TraitItem};

use crate::ast::{ArgKind, Method, NAME, Reply, Service, plain_name};
use crate::attr::ASYNC_TRAIT;
use crate::faults::Faults;
use crate::ids;
use crate::syntax;

/// Applies every rule; methods that cannot be called are marked `broken`.
pub(crate) fn validate(service: &mut Service, faults: &mut Faults) {
    if let Some(method) = service.methods.iter().find(|method| is_rewritten(method)) {
        faults.on(&method.sig.ident, ASYNC_TRAIT);
        service.methods.iter_mut().for_each(|method| method.broken = true);
        return;
    }
    check_trait(service, faults);
    for kept in &service.kept {
        check_kept(kept, faults);
    }
    for method in &mut service.methods {
        method::check(method, faults);
    }
    check_aliases(service, faults);
    check_ids(service, faults);
    check_companions(service, faults);
}

/// Whether `#[async_trait]` above `#[service]` ran first and left its boxes.
fn is_rewritten(method: &Method) -> bool {
    method.sig.generics.lifetimes().any(|parameter| parameter.lifetime.ident == "async_trait")
}

fn check_trait(service: &Service, faults: &mut Faults) {
    let item = &service.item;
    if let Some(unsafety) = &item.unsafety {
        faults.on(unsafety, "a service is a safe trait: remove `unsafe`");
    }
    for parameter in &item.generics.params {
        match parameter {
            GenericParam::Lifetime(lifetime) => {
                faults.on(
                    lifetime,
                    "what travels is owned, so a service has no lifetimes: remove it",
                );
            }
            _ if service.options.name.is_some() => {}
            other => {
                let ident = &item.ident;
                let shown = match other {
                    GenericParam::Const(parameter) => &parameter.ident,
                    GenericParam::Type(parameter) => &parameter.ident,
                    GenericParam::Lifetime(parameter) => &parameter.lifetime.ident,
                };
                faults.on(
                    other,
                    format!(
                        "`{ident}<{shown}>` needs `#[service(name = \"..\")]`, and each instantiation a server of its own: \
                         all of them share the wire ids of that name"
                    ),
                );
                break;
            }
        }
    }
}

fn check_kept(kept: &TraitItem, faults: &mut Faults) {
    match kept {
        TraitItem::Type(item) => faults.on(
            item,
            format!(
                "`{}` is not part of a remote contract: move it to a supertrait, or name the type",
                item.ident
            ),
        ),
        TraitItem::Const(item) => {
            faults.on(
                item,
                format!(
                    "`{}` is not part of a remote contract: move it to a supertrait",
                    item.ident
                ),
            );
        }
        TraitItem::Macro(item) => {
            faults.on(
                item,
                "`#[service]` runs before this macro and cannot see its methods: write them out",
            );
        }
        _ => {}
    }
}

fn check_aliases(service: &Service, faults: &mut Faults) {
    for alias in service.methods.iter().flat_map(|method| &method.options.aliases) {
        let text = alias.value();
        if !ids::is_name(&text) && !ids::is_path(&text) {
            faults.on(
                alias,
                format!("an alias is a method's old name, or `service/method` after a move; {NAME}"),
            );
        }
    }
}

/// One name of a method on the wire.
struct Claim<'a> {
    method: usize,
    ident: &'a Ident,
    path: String,
    blame: &'a dyn ToTokens,
}

/// The paths of a method: its own, then its aliases.
pub(crate) fn alias_path(service: &Service, alias: &str) -> String {
    if alias.contains('/') {
        alias.to_owned()
    } else {
        format!("{}/{alias}", service.name)
    }
}

fn check_ids(service: &mut Service, faults: &mut Faults) {
    let claims = claims(service);
    let mut clashing = Vec::new();
    for (index, claim) in claims.iter().enumerate() {
        let clash = claims[..index].iter().find(|earlier| ids::fnv1a(&earlier.path) == ids::fnv1a(&claim.path));
        let Some(earlier) = clash else { continue };
        // Under `#[cfg]` both may never exist together; `expand` emits a check for that.
        if [earlier.method, claim.method].iter().any(|&at| !service.methods[at].attrs.cfg.is_empty()) {
            continue;
        }
        faults.between(earlier.blame, claim.blame, clash_message(earlier, claim));
        if earlier.method != claim.method {
            clashing.push(claim.method);
        }
    }
    for method in clashing {
        service.methods[method].broken = true;
    }
}

fn clash_message(earlier: &Claim<'_>, claim: &Claim<'_>) -> String {
    if earlier.path == claim.path {
        format!(
            "`{}` is already declared by method `{}`: every name of a service is used once",
            claim.path, earlier.ident
        )
    } else {
        format!(
            "methods `{}` and `{}` share a wire id (`{}` and `{}` hash alike): give one another name with \
             `#[rpc(name = \"..\")]`",
            earlier.ident, claim.ident, earlier.path, claim.path
        )
    }
}

fn claims(service: &Service) -> Vec<Claim<'_>> {
    let mut claims = Vec::new();
    for (at, method) in service.methods.iter().enumerate() {
        let ident = &method.sig.ident;
        let blame: &dyn ToTokens = method.options.name.as_ref().map_or(ident as &dyn ToTokens, |name| name);
        claims.push(Claim {
            method: at,
            ident,
            path: method.path.clone(),
            blame,
        });
        for alias in &method.options.aliases {
            claims.push(Claim {
                method: at,
                ident,
                path: alias_path(service, &alias.value()),
                blame: alias,
            });
        }
    }
    claims
}

/// Rules of `transparent`, `dyn` and `mock`.
fn check_companions(service: &mut Service, faults: &mut Faults) {
    let options = &service.options;
    for method in service.methods.iter_mut().filter(|method| !method.broken) {
        if options.transparent.is_some() && matches!(method.reply, Reply::Plain(_)) {
            faults.on(
                &method.sig.ident,
                format!(
                    "`#[service(transparent)]` needs every method to be able to fail as a call: return \
                     `Result<_, Status>` from `{}`, or an error with `#[rpc(status)] Rpc(#[from] Status)`",
                    method.sig.ident
                ),
            );
        }
        if options.mock.is_some() && plain_name(&method.sig.ident) == "new" {
            let ident = &service.item.ident;
            faults.on(
                &method.sig.ident,
                format!(
                    "the setter of `new` would hide `{ident}Mock::new`: keep the wire name with \
                     `#[rpc(name = \"new\")] async fn create`"
                ),
            );
            method.broken = true;
        }
    }
    let companion = [
        (options.transparent, "transparent"),
        (options.dynamic, "dyn"),
        (options.mock, "mock"),
    ];
    let Some((_, option)) = companion.into_iter().find(|(span, _)| span.is_some()) else {
        return;
    };
    for kept in &mut service.kept {
        if let TraitItem::Fn(function) = kept
            && function.default.is_none()
        {
            function.default = Some(syn::parse_quote!({ ::core::unreachable!() }));
            function.semi_token = None;
            faults.on(
                &function.sig.ident,
                format!(
                    "`#[service({option})]` implements this trait itself: give the skipped `{}` a body",
                    function.sig.ident
                ),
            );
        }
    }
}

/// Whether a skipped or travelling argument is a second one of its kind.
fn is_repeated(method: &Method, index: usize, same: impl Fn(&ArgKind) -> bool) -> bool {
    same(&method.args[index].kind) && method.args[..index].iter().any(|arg| same(&arg.kind))
}

/// Whether a type is spelled `Option<..>`.
fn is_option(ty: &syn::Type) -> bool {
    syntax::is(ty, "Option")
}

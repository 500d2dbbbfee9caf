//! Rules on one method: its receiver, its signature, its options, its arguments.

use syn::token::Async;
use syn::{
    GenericArgument, GenericParam, PathArguments, ReceiverKind, ReturnType, Safety, Signature, Type, TypeParamBound,
};

use super::{is_option, is_repeated, types};
use crate::ast::{Arg, ArgKind, Method, plain_name};
use crate::attr;
use crate::faults::Faults;
use crate::syntax;

/// Applies every rule of a method and decides whether it can be called.
pub(super) fn check(method: &mut Method, faults: &mut Faults) {
    let before = faults.count();
    check_receiver(method, faults);
    check_signature(method, faults);
    check_name(method, faults);
    // A lifetime that is declared is reported there, not where it is used.
    if method.sig.generics.lifetimes().next().is_none() {
        for index in 0..method.args.len() {
            check_arg(method, index, faults);
        }
        if method.sig.asyncness.is_some() {
            types::check_reply(method, faults);
        }
    }
    method.broken = faults.count() > before;
    // From here on the method works, only not as its author thinks.
    check_options(method, faults);
    types::check_bytes(method, faults);
}

fn check_receiver(method: &Method, faults: &mut Faults) {
    const SHARED: &str = "handlers run concurrently behind an `Arc`: take `&self` and use interior mutability";
    let Some(receiver) = method.sig.receiver() else {
        faults.on(
            &method.sig.ident,
            "RPC methods take `&self`; for a helper add `where Self: Sized` and `#[rpc(skip)]`",
        );
        return;
    };
    match &receiver.kind {
        ReceiverKind::Reference(_, None, None) => {}
        ReceiverKind::Reference(_, Some(lifetime), None) => {
            faults.on(lifetime, "the lifetime of a handler does not travel: write `&self`");
        }
        _ => faults.on(receiver, SHARED),
    }
}

fn check_signature(method: &Method, faults: &mut Faults) {
    let sig = &method.sig;
    if sig.asyncness.is_none() {
        faults.on(
            sig.fn_token,
            format!("a call crosses the network: write `{}`", as_async(sig)),
        );
    }
    if let Some(constness) = &sig.constness {
        faults.on(constness, "an RPC is no `const fn`: remove `const`");
    }
    if let Safety::Unsafe(unsafety) = &sig.safety {
        faults.on(
            unsafety,
            "a caller across the network can promise nothing: remove `unsafe`",
        );
    }
    if let Some(abi) = &sig.abi {
        faults.on(abi, "an RPC has no ABI of its own: remove `extern`");
    }
    for parameter in &sig.generics.params {
        match parameter {
            GenericParam::Lifetime(lifetime) => {
                faults.on(lifetime, "lifetimes do not travel: elide it, as in `&str`");
            }
            GenericParam::Type(parameter) => faults.on(
                parameter,
                format!(
                    "wire types must be concrete: move `{}` to the trait, or use an enum",
                    parameter.ident
                ),
            ),
            GenericParam::Const(parameter) => faults.on(
                parameter,
                format!(
                    "wire types must be concrete: move `{}` to the trait, or send a `Vec`",
                    parameter.ident
                ),
            ),
        }
    }
    if let Some(bounds) = &sig.generics.where_clause {
        faults.on(
            bounds,
            "an RPC has no `where` clause: move the bound to the trait, or mark a helper `#[rpc(skip)]`",
        );
    }
}

/// The signature with `async`, and with the output of the future that it may return.
fn as_async(sig: &Signature) -> String {
    let mut sig = sig.clone();
    sig.asyncness = Some(Async::default());
    if let ReturnType::Type(_, ty) = &mut sig.output
        && let Type::ImplTrait(future) = &**ty
        && let Some(TypeParamBound::Trait(bound)) = future.bounds.first()
        && let Some(PathArguments::AngleBracketed(list)) = bound.path.segments.last().map(|segment| &segment.arguments)
        && let Some(GenericArgument::AssocType(output)) = list.args.first()
    {
        **ty = output.ty.clone();
    }
    syntax::shown(sig)
}

/// Inherent items of the generated client that a method of the same name would hide or duplicate.
const TAKEN: &[&str] = &["channel", "clone", "connect", "fmt", "from_channel", "lazy", "local"];

/// Whether a client has an item of this name anyway.
pub(crate) fn is_taken(ident: &syn::Ident) -> bool {
    TAKEN.contains(&plain_name(ident).as_str())
}

fn check_name(method: &Method, faults: &mut Faults) {
    let name = plain_name(&method.sig.ident);
    if name.starts_with("__") {
        faults.on(
            &method.sig.ident,
            "names that begin with `__` belong to generated code: choose another",
        );
    }
    if is_taken(&method.sig.ident) {
        faults.on(
            &method.sig.ident,
            format!(
                "method would hide the client's own `{name}`: keep the wire name with \
                 `#[rpc(name = \"{name}\")] async fn {name}_it`"
            ),
        );
    }
}

fn check_options(method: &Method, faults: &mut Faults) {
    if let (Some(span), Some(_)) = (method.options.idempotent, method.inbound()) {
        faults.at(
            span,
            "a consumed stream cannot be replayed: remove `idempotent` from a method that takes a stream",
        );
    }
}

fn check_arg(method: &Method, index: usize, faults: &mut Faults) {
    let arg = &method.args[index];
    let before = faults.count();
    check_arg_name(arg, faults);
    for attr in arg.attrs.iter().filter(|attr| attr::is(attr, "cfg") || attr::is(attr, "cfg_attr")) {
        faults.on(
            attr,
            "a condition on an argument changes the contract: put `#[cfg(..)]` on two versions of the method",
        );
    }
    if faults.count() > before {
        return;
    }
    if is_repeated(method, index, |kind| matches!(kind, ArgKind::Cx)) {
        faults.on(&arg.ty, "a call has one context: keep one `&Cx`");
    } else if is_repeated(method, index, |kind| matches!(kind, ArgKind::Inbound(_))) {
        faults.on(
            &arg.ty,
            "one inbound and one outbound stream per method: merge the items into an enum",
        );
    } else {
        types::check_arg(arg, faults);
    }
    if faults.count() == before {
        check_arg_options(arg, faults);
    }
}

fn check_arg_name(arg: &Arg, faults: &mut Faults) {
    let ty = syntax::shown(&arg.ty);
    match &arg.pat {
        _ if arg.name.is_some() => {}
        syn::Pat::Ident(pat) if pat.by_ref.is_none() && pat.subpat.is_none() => {
            faults.on(
                &arg.pat,
                format!("an implementation's business: write `{}: {ty}`", pat.ident),
            );
        }
        _ => faults.on(
            &arg.pat,
            format!("argument needs a name (it is part of the contract), e.g. `id: {ty}`"),
        ),
    }
}

fn check_arg_options(arg: &Arg, faults: &mut Faults) {
    let options = &arg.options;
    if let Some(span) = options.reserved {
        let is_unit = matches!(&arg.ty, Type::Tuple(tuple) if tuple.elems.is_empty());
        let is_hidden = arg.name.as_ref().is_some_and(|name| name.to_string().starts_with('_'));
        if !is_unit || !is_hidden {
            faults.at(span, "a reserved place is written `#[rpc(reserved)] _old: ()`");
        } else if options.default.is_some() {
            faults.at(span, "a reserved place has no value: remove `default`");
        }
        return;
    }
    let declared = options.default.is_some() || options.since.is_some();
    if declared && !arg.travels() {
        faults.on(
            &arg.ty,
            "this argument is no part of the message: remove its `#[rpc(..)]`",
        );
        return;
    }
    if let Some((_, span)) = options.since
        && options.default.is_none()
        && !is_option(&arg.ty)
    {
        faults.at(
            span,
            "old clients will not send it: make it an `Option`, or add `default`",
        );
    }
}

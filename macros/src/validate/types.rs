//! Rules on the types that travel, as far as their spelling tells.
//!
//! Whether a type can be serialized is not known here: generated code asks the compiler, through the `Wire` bound.

use quote::ToTokens;
use syn::{ReturnType, Type};

use crate::ast::{Arg, ArgKind, Method, Reply};
use crate::faults::Faults;
use crate::syntax::{self, find, is};

const STREAM: &str = "use `Streaming<Item>`; build one with `Streaming::from(stream)`";
const NESTED: &str = "one inbound and one outbound stream per method, at top level: move `Streaming` out of this type";
const SELF: &str = "`Self` is the handler, which a client does not have: name the type";

/// Faults of an argument's type; at most one.
pub(super) fn check_arg(arg: &Arg, faults: &mut Faults) {
    let ty = &arg.ty;
    if let ArgKind::Inbound(item) = &arg.kind {
        if item.to_token_stream().is_empty() {
            faults.on(ty, "say what flows: `Streaming<Item>`");
        } else {
            check_plain(item, faults);
        }
    } else if let Some(reference) = syntax::reference(ty) {
        check_reference(reference, &arg.kind, faults);
    } else if matches!(arg.kind, ArgKind::OptStr | ArgKind::OptBytes) {
        if let Some(lifetime) = syntax::lifetime(ty) {
            faults.on(lifetime, BORROWED);
        }
    } else if is(ty, "Cx") {
        faults.on(ty, "take the context by reference: `cx: &Cx`");
    } else {
        check_plain(ty, faults);
    }
}

const BORROWED: &str =
    "arguments are read from the request and live as long as the call: write the reference without a lifetime";

fn check_reference(reference: &syn::TypeReference, kind: &ArgKind, faults: &mut Faults) {
    if reference.mutability.is_some() {
        let advice = if matches!(kind, ArgKind::Cx) {
            "handlers share the context, which has interior mutability: take `&Cx`"
        } else {
            "mutation does not travel: take a value and return the new one"
        };
        faults.on(reference, advice);
    } else if let Some(lifetime) = &reference.lifetime {
        faults.on(lifetime, BORROWED);
    } else if let ArgKind::Ref(target) = kind {
        if let Type::Slice(slice) = syntax::peel(target) {
            let item = syntax::shown(&slice.elem);
            faults.on(
                reference,
                format!("only `&str` and `&[u8]` are read in place: take `Vec<{item}>`"),
            );
        } else {
            check_plain(target, faults);
        }
    }
}

/// Faults of a type that is owned on both sides.
fn check_plain(ty: &Type, faults: &mut Faults) {
    if let Some(stream) = find(ty, is_stream) {
        faults.on(stream, STREAM);
    } else if let Some(generic) = find(ty, |ty| matches!(ty, Type::ImplTrait(_))) {
        faults.on(
            generic,
            "wire types must be concrete: name the type, move a parameter to the trait, or use an enum",
        );
    } else if find(ty, |ty| is(ty, "Streaming")).is_some() {
        faults.on(ty, NESTED);
    } else if let Some(reference) = find(ty, |ty| matches!(ty, Type::Reference(_))) {
        faults.on(
            reference,
            "inside another type only owned data travels: use `String`, `Bytes`, or the type itself",
        );
    } else if let Some(lifetime) = syntax::lifetime(ty) {
        faults.on(
            lifetime,
            "inside another type only owned data travels: use a type without a lifetime",
        );
    } else if let Some(word) = syntax::word(ty.to_token_stream(), "Self") {
        faults.on(word, SELF);
    }
}

/// `impl Stream<..>`, `Box<dyn Stream<..>>`.
fn is_stream(ty: &Type) -> bool {
    let bounds = match ty {
        Type::ImplTrait(ty) => &ty.bounds,
        Type::TraitObject(ty) => &ty.bounds,
        _ => return false,
    };
    bounds.iter().any(|bound| match bound {
        syn::TypeParamBound::Trait(bound) => bound
            .path
            .segments
            .last()
            .is_some_and(|segment| segment.ident == "Stream" || segment.ident == "TryStream"),
        _ => false,
    })
}

/// Faults of what a method returns; at most one.
pub(super) fn check_reply(method: &Method, faults: &mut Faults) {
    let ReturnType::Type(_, whole) = &method.sig.output else {
        return;
    };
    if find(whole, is_stream).is_some() {
        faults.on(whole, STREAM);
    } else if let Some(reference) = find(whole, |ty| matches!(ty, Type::Reference(_))) {
        faults.on(reference, "responses are owned: return `String`, `Bytes` or `Arc<T>`");
    } else if let Some(lifetime) = syntax::lifetime(whole) {
        faults.on(lifetime, "responses are owned: return a type without a lifetime");
    } else if let Some(generic) = find(whole, |ty| matches!(ty, Type::ImplTrait(_))) {
        faults.on(generic, "wire types must be concrete: name the type");
    } else if let Some(word) = syntax::word(whole.to_token_stream(), "Self") {
        faults.on(word, SELF);
    } else {
        check_outcome(&method.reply, whole, faults);
    }
}

fn check_outcome(reply: &Reply, whole: &Type, faults: &mut Faults) {
    if let Reply::Plain(_) = reply
        && is(whole, "Streaming")
    {
        let item = syntax::arguments(whole).first().map(syntax::shown).unwrap_or_default();
        faults.on(
            whole,
            format!("opening a stream can fail: return `Result<Streaming<{item}>, E>`"),
        );
        return;
    }
    let Some(ok) = reply.ok() else { return };
    let inner = reply.outbound().unwrap_or(ok);
    if find(inner, |ty| is(ty, "Streaming")).is_some() {
        faults.on(ok, NESTED);
    } else if let Some(error) = reply.err().filter(|error| is_opaque_error(error)) {
        let shown = syntax::shown(error);
        faults.on(
            error,
            format!(
                "`{shown}` cannot cross the wire: return `Status` (`Status::internal(..)`), or an enum with \
                 `#[derive(AppError)]`"
            ),
        );
    }
}

/// Errors that hide what they are: `Box<dyn Error>`, `anyhow::Error`, `eyre::Report`.
fn is_opaque_error(ty: &Type) -> bool {
    let path = match syntax::peel(ty) {
        Type::Path(path) => &path.path,
        _ => return false,
    };
    if is(ty, "Box") {
        return syntax::arguments(ty).iter().any(|inner| matches!(inner, Type::TraitObject(_)));
    }
    let home = path.segments.first().filter(|_| path.segments.len() > 1);
    home.is_some_and(|home| ["anyhow", "eyre", "color_eyre"].iter().any(|name| home.ident == name))
}

/// `Vec<u8>` travels as an array of integers, at up to twice the size.
pub(super) fn check_bytes(method: &Method, faults: &mut Faults) {
    const ADVICE: &str = "encodes as an array of integers, up to twice the size: use `Bytes` or `&[u8]`, or keep it \
                          with `#[rpc(allow(vec_u8))]`";
    if method.options.allow_vec_u8 {
        return;
    }
    for arg in method.args.iter().filter(|arg| !arg.options.allow_vec_u8) {
        if let Some(bytes) = find(&arg.ty, is_vec_u8) {
            faults.on(bytes, format!("`Vec<u8>` {ADVICE}"));
        }
    }
    if let ReturnType::Type(_, ty) = &method.sig.output
        && let Some(bytes) = find(ty, is_vec_u8)
    {
        faults.on(bytes, format!("`Vec<u8>` {ADVICE}"));
    }
}

fn is_vec_u8(ty: &Type) -> bool {
    is(ty, "Vec") && matches!(syntax::arguments(ty)[..], [item] if is(item, "u8"))
}

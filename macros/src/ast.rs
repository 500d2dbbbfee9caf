//! What a service is: the trait read into `Service`, `Method`, `Arg` and `Reply`, all spans kept.
//!
//! Reading never fails. A method that cannot become an RPC is marked `broken`: the trait keeps it, so that
//! implementations still fit, and everything else leaves it out.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Attribute, Block, FnArg, Ident, ItemTrait, Pat, ReturnType, Signature, TraitItem, TraitItemFn, Type};

use crate::attr::{self, Attrs};
use crate::faults::Faults;
use crate::ids;
use crate::links::{self, Link, Place};
use crate::options::{ArgOptions, MethodOptions, ServiceOptions};
use crate::syntax;

/// A trait with `#[service]`.
pub(crate) struct Service {
    /// The trait without its functions and without the attributes that are ours.
    pub(crate) item: ItemTrait,
    pub(crate) options: ServiceOptions,
    /// The name on the wire.
    pub(crate) name: String,
    pub(crate) links: Vec<Link>,
    pub(crate) methods: Vec<Method>,
    /// Functions with `#[rpc(skip)]`, and whatever else stays as it is.
    pub(crate) kept: Vec<TraitItem>,
}

/// One function of the trait.
pub(crate) struct Method {
    pub(crate) attrs: Attrs,
    pub(crate) sig: Signature,
    pub(crate) body: Option<Block>,
    pub(crate) options: MethodOptions,
    pub(crate) links: Vec<Link>,
    pub(crate) args: Vec<Arg>,
    pub(crate) reply: Reply,
    /// `shop.Orders/get`.
    pub(crate) path: String,
    /// Whether a fault makes an RPC of it impossible.
    pub(crate) broken: bool,
}

/// One argument, the receiver not counted.
pub(crate) struct Arg {
    pub(crate) attrs: Vec<Attribute>,
    /// `None` for a pattern, which is a fault.
    pub(crate) name: Option<Ident>,
    pub(crate) pat: Pat,
    pub(crate) ty: Type,
    pub(crate) kind: ArgKind,
    pub(crate) options: ArgOptions,
}

/// How an argument travels.
pub(crate) enum ArgKind {
    /// `&Cx`: it does not.
    Cx,
    /// `Streaming<T>`: as the call's inbound stream.
    Inbound(Type),
    /// `&str`, read in place.
    Str,
    /// `&[u8]`, read in place.
    Bytes,
    /// `Option<&str>`.
    OptStr,
    /// `Option<&[u8]>`.
    OptBytes,
    /// `&T`: written from the reference, read into a `T` that lives as long as the call.
    Ref(Type),
    /// `T`.
    Owned,
    /// `()` where an argument was removed.
    Reserved,
}

impl Arg {
    /// Whether the argument takes a place in the argument array.
    pub(crate) fn travels(&self) -> bool {
        !matches!(self.kind, ArgKind::Cx | ArgKind::Inbound(_))
    }

    /// The argument as a parameter; nobody reads a reserved place.
    pub(crate) fn param(&self, ty: &Type) -> TokenStream {
        match (&self.kind, &self.name) {
            (ArgKind::Reserved, _) | (_, None) => quote!(_: #ty),
            (_, Some(name)) => quote!(#name: #ty),
        }
    }

    /// The parameter's value, to hand it on.
    pub(crate) fn value(&self) -> TokenStream {
        match (&self.kind, &self.name) {
            (ArgKind::Reserved, _) | (_, None) => quote!(()),
            (_, Some(name)) => quote!(#name),
        }
    }

    /// Whether the client's method has it.
    pub(crate) fn is_on_client(&self) -> bool {
        !matches!(self.kind, ArgKind::Cx | ArgKind::Reserved)
    }
}

/// What a method returns.
pub(crate) enum Reply {
    /// No application error. `None` is no `->` at all.
    Plain(Option<Type>),
    /// The last path segment is `Result`.
    Fallible {
        whole: Type,
        /// `Ok` and `Err` where both are spelled; an alias hides them.
        parts: Option<Box<(Type, Type)>>,
    },
}

impl Reply {
    fn read(output: &ReturnType) -> Self {
        let ReturnType::Type(_, ty) = output else {
            return Self::Plain(None);
        };
        if !syntax::is(ty, "Result") {
            return Self::Plain(Some(Type::clone(ty)));
        }
        let parts = match syntax::arguments(ty)[..] {
            [ok, err] => Some(Box::new((ok.clone(), err.clone()))),
            _ => None,
        };
        Self::Fallible {
            whole: Type::clone(ty),
            parts,
        }
    }

    /// The type of a success, where it is spelled.
    pub(crate) fn ok(&self) -> Option<&Type> {
        match self {
            Self::Plain(ty) => ty.as_ref(),
            Self::Fallible { parts, .. } => parts.as_deref().map(|(ok, _)| ok),
        }
    }

    /// The type of an application error, where it is spelled.
    pub(crate) fn err(&self) -> Option<&Type> {
        match self {
            Self::Plain(_) => None,
            Self::Fallible { parts, .. } => parts.as_deref().map(|(_, err)| err),
        }
    }

    /// The item of an outbound stream, where it is spelled.
    pub(crate) fn outbound(&self) -> Option<&Type> {
        let ok = self.ok()?;
        if syntax::is(ok, "Streaming") {
            syntax::arguments(ok).first().copied()
        } else {
            None
        }
    }
}

impl Method {
    /// The item of the inbound stream.
    pub(crate) fn inbound(&self) -> Option<&Arg> {
        self.args.iter().find(|arg| matches!(arg.kind, ArgKind::Inbound(_)))
    }

    /// The id on the wire.
    pub(crate) fn id(&self) -> u64 {
        ids::fnv1a(&self.path)
    }
}

impl Service {
    /// Reads the trait; what is ours is taken out of it.
    pub(crate) fn read(mut item: ItemTrait, options: ServiceOptions, faults: &mut Faults) -> Self {
        attr::refuse_async_trait(&mut item.attrs, faults);
        let generics = item.generics.clone();
        let place = Place {
            fields: false,
            generics: &generics,
        };
        let links = links::take(&mut item.attrs, &place, faults);
        let name = service_name(&item, &options, faults);
        let (mut methods, mut kept) = (Vec::new(), Vec::new());
        for member in std::mem::take(&mut item.items) {
            match member {
                TraitItem::Fn(function) => match read_fn(function, &name, &place, faults) {
                    Member::Rpc(method) => methods.push(*method),
                    Member::Kept(function) => kept.push(TraitItem::Fn(*function)),
                },
                other => kept.push(other),
            }
        }
        Self {
            item,
            options,
            name,
            links,
            methods,
            kept,
        }
    }

    /// The methods that are RPCs.
    pub(crate) fn calls(&self) -> impl Iterator<Item = &Method> {
        self.methods.iter().filter(|method| !method.broken)
    }
}

fn service_name(item: &ItemTrait, options: &ServiceOptions, faults: &mut Faults) -> String {
    let Some(text) = &options.name else {
        return plain_name(&item.ident);
    };
    if !ids::is_name(&text.value()) {
        faults.on(text, NAME);
    }
    text.value()
}

/// The text of an identifier, `type` for `r#type`.
pub(crate) fn plain_name(ident: &Ident) -> String {
    let text = ident.to_string();
    text.strip_prefix("r#").unwrap_or(&text).to_owned()
}

pub(crate) const NAME: &str =
    "a name on the wire is made of letters, digits, `_`, `-` and inner dots, e.g. `shop.Orders`";

enum Member {
    Rpc(Box<Method>),
    Kept(Box<TraitItemFn>),
}

fn read_fn(mut function: TraitItemFn, service: &str, place: &Place<'_>, faults: &mut Faults) -> Member {
    attr::refuse_late(&mut function.attrs, faults);
    let options = MethodOptions::take(&mut function.attrs, faults);
    let links = links::take(&mut function.attrs, place, faults);
    if options.skip.is_some() {
        if let Some(link) = links.first() {
            faults.at(
                link.span(),
                "an interceptor on a skipped method never runs: remove it, or remove `skip`",
            );
        }
        return Member::Kept(Box::new(function));
    }
    let args = read_args(&mut function.sig, faults);
    let reply = Reply::read(&function.sig.output);
    let segment = method_name(&function.sig.ident, &options, faults);
    Member::Rpc(Box::new(Method {
        attrs: Attrs::sort(function.attrs),
        path: format!("{service}/{segment}"),
        body: function.default,
        sig: function.sig,
        options,
        links,
        args,
        reply,
        broken: false,
    }))
}

fn method_name(ident: &Ident, options: &MethodOptions, faults: &mut Faults) -> String {
    let Some(text) = &options.name else {
        return plain_name(ident);
    };
    if !ids::is_name(&text.value()) {
        faults.on(text, NAME);
    }
    text.value()
}

/// Reads the arguments and takes `#[rpc(..)]` off those in the signature.
fn read_args(sig: &mut Signature, faults: &mut Faults) -> Vec<Arg> {
    let mut args = Vec::new();
    for input in &mut sig.inputs {
        let FnArg::Typed(input) = input else { continue };
        let options = ArgOptions::take(&mut input.attrs, faults);
        let name = match &*input.pat {
            Pat::Ident(pat) if pat.by_ref.is_none() && pat.subpat.is_none() && pat.mutability.is_none() => {
                Some(pat.ident.clone())
            }
            _ => None,
        };
        let kind = if options.reserved.is_some() {
            ArgKind::Reserved
        } else {
            kind(&input.ty)
        };
        let (attrs, pat, ty) = (input.attrs.clone(), Pat::clone(&input.pat), Type::clone(&input.ty));
        args.push(Arg {
            attrs,
            name,
            pat,
            ty,
            kind,
            options,
        });
    }
    args
}

fn kind(ty: &Type) -> ArgKind {
    if let Some(reference) = syntax::reference(ty) {
        return match &*reference.elem {
            target if syntax::is(target, "Cx") => ArgKind::Cx,
            target if syntax::is(target, "str") => ArgKind::Str,
            target if syntax::is_byte_slice(target) => ArgKind::Bytes,
            target => ArgKind::Ref(target.clone()),
        };
    }
    if syntax::is(ty, "Streaming") {
        let item = syntax::arguments(ty).first().copied().cloned();
        return ArgKind::Inbound(item.unwrap_or_else(|| Type::Verbatim(TokenStream::new())));
    }
    if syntax::is(ty, "Option")
        && let [inner] = syntax::arguments(ty)[..]
        && let Some(reference) = syntax::reference(inner)
    {
        if syntax::is(&reference.elem, "str") {
            return ArgKind::OptStr;
        }
        if syntax::is_byte_slice(&reference.elem) {
            return ArgKind::OptBytes;
        }
    }
    ArgKind::Owned
}

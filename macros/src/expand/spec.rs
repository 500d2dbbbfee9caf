//! The method table, and what the compiler is asked about types.
//!
//! Every generated body that names a wire type asks `Wire` first, at the user's token, with the same words; the
//! compiler then reports one missing `Serialize` once, however many bodies need it.

use proc_macro2::{Literal, Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::Type;
use syn::spanned::Spanned;

use super::Plan;
use crate::ast::{Arg, ArgKind, Method, Reply, plain_name};
use crate::options::{Encoding, Execution};
use crate::validate::alias_path;
use crate::{ids, syntax};

/// `MethodSpec::new(..)` with everything the attributes say.
pub(super) fn value(plan: &Plan<'_>, method: &Method) -> TokenStream {
    let (at, p) = (plan.at, &plan.p);
    let (path, id) = (&method.path, Literal::u64_suffixed(method.id()));
    let inbound = method.inbound().is_some();
    let outbound = outbound(plan, method);
    let options = &method.options;
    let idempotent = options.idempotent.map(|_| quote_spanned!(at=> .idempotent()));
    let timeout = options.timeout_ms.map(|ms| quote_spanned!(at=> .timeout_ms(#ms)));
    let since = options.since.map(|since| quote_spanned!(at=> .since(#since)));
    let deprecated = method.attrs.is_deprecated().then(|| quote_spanned!(at=> .deprecated()));
    let doc = method.attrs.first_doc_line().map(|line| quote_spanned!(at=> .doc(#line)));
    let encoding = (plan.service.options.encoding == Encoding::Compact)
        .then(|| quote_spanned!(at=> .encoding(#p::Encoding::Compact)));
    let execution = match options.execution {
        Execution::Inline => None,
        Execution::Spawn => Some(quote_spanned!(at=> .execution(#p::Execution::Spawn))),
        Execution::Blocking => Some(quote_spanned!(at=> .execution(#p::Execution::Blocking))),
    };
    let (meta, args, aliases) = (meta(plan, method), args(plan, method), aliases(plan, method));
    quote_spanned! {at=>
        #p::MethodSpec::new(#path, #id, #p::MethodKind::from_streams(#inbound, #outbound))
            #idempotent #timeout #since #deprecated #doc #encoding #execution #meta #args #aliases
    }
}

fn meta(plan: &Plan<'_>, method: &Method) -> Option<TokenStream> {
    let (keys, values): (Vec<_>, Vec<_>) =
        method.options.meta.iter().map(|(key, value)| (key.to_string(), value)).unzip();
    (!keys.is_empty()).then(|| quote_spanned!(plan.at=> .meta(&[#((#keys, #values)),*])))
}

fn args(plan: &Plan<'_>, method: &Method) -> Option<TokenStream> {
    let (at, p) = (plan.at, &plan.p);
    let specs: Vec<_> = travelling(method)
        .map(|arg| {
            let name = arg.name.as_ref().map(plain_name).unwrap_or_default();
            let since = arg.options.since.map(|(since, _)| quote_spanned!(at=> .since(#since)));
            quote_spanned!(at=> #p::ArgSpec::new(#name) #since)
        })
        .collect();
    (!specs.is_empty()).then(|| quote_spanned!(at=> .args(&[#(#specs),*])))
}

fn aliases(plan: &Plan<'_>, method: &Method) -> Option<TokenStream> {
    let (at, p) = (plan.at, &plan.p);
    let aliases: Vec<_> = method
        .options
        .aliases
        .iter()
        .map(|alias| {
            let path = alias_path(plan.service, &alias.value());
            let id = Literal::u64_suffixed(ids::fnv1a(&path));
            quote_spanned!(at=> #p::Alias::new(#path, #id))
        })
        .collect();
    (!aliases.is_empty()).then(|| quote_spanned!(at=> .aliases(&[#(#aliases),*])))
}

/// The arguments that take a place in the message.
pub(super) fn travelling(method: &Method) -> impl Iterator<Item = &Arg> {
    method.args.iter().filter(|arg| arg.travels())
}

/// Whether the response is a stream; asked of the type unless it is spelled.
fn outbound(plan: &Plan<'_>, method: &Method) -> TokenStream {
    let p = &plan.p;
    if method.reply.outbound().is_some() {
        return quote!(true);
    }
    let (ok, asked) = (ok(plan, method), ask_reply(plan, method));
    quote_spanned!(plan.at=> { #asked <#ok as #p::ReplyShape>::STREAMING })
}

/// The type of a success.
pub(super) fn ok(plan: &Plan<'_>, method: &Method) -> TokenStream {
    let (at, p) = (plan.at, &plan.p);
    match (&method.reply, method.reply.ok()) {
        (_, Some(ok)) => quote!(#ok),
        (Reply::Plain(_), None) => quote_spanned!(at=> ()),
        (Reply::Fallible { whole, .. }, None) => quote_spanned!(at=> <#whole as #p::Returns>::Ok),
    }
}

/// The error that the handler returns.
pub(super) fn error(plan: &Plan<'_>, method: &Method) -> Option<TokenStream> {
    let (at, p) = (plan.at, &plan.p);
    match (&method.reply, method.reply.err()) {
        (Reply::Plain(_), _) => None,
        (_, Some(err)) => Some(quote!(#err)),
        (Reply::Fallible { whole, .. }, None) => Some(quote_spanned!(at=> <#whole as #p::Returns>::Err)),
    }
}

/// The error that a client sees.
pub(super) fn client_error(plan: &Plan<'_>, method: &Method) -> TokenStream {
    let (at, p) = (plan.at, &plan.p);
    match (&method.reply, method.reply.err()) {
        (Reply::Plain(_), _) => quote_spanned!(at=> #p::Status),
        (_, Some(err)) if syntax::is(err, "Status") => quote!(#err),
        (_, Some(err)) => quote_spanned!(err.span()=> <#err as #p::AppError>::OnClient),
        (Reply::Fallible { whole, .. }, None) => {
            quote_spanned!(whole.span()=> <<#whole as #p::Returns>::Err as #p::AppError>::OnClient)
        }
    }
}

/// Statements that ask `Wire` of every type in a method's arguments.
pub(super) fn ask_args(method: &Method) -> TokenStream {
    method
        .args
        .iter()
        .filter_map(|arg| match &arg.kind {
            ArgKind::Owned => Some(&arg.ty),
            ArgKind::Ref(ty) | ArgKind::Inbound(ty) => Some(ty),
            _ => None,
        })
        .map(ask)
        .collect()
}

/// A statement that asks `ReplyShape` of what a method returns.
pub(super) fn ask_reply(plan: &Plan<'_>, method: &Method) -> TokenStream {
    let ok = ok(plan, method);
    quote_spanned!(reply_span(plan, method)=> __sinew_reply::<#ok>();)
}

/// The token to blame for what a method returns.
pub(super) fn reply_span(plan: &Plan<'_>, method: &Method) -> Span {
    match (&method.reply, method.reply.ok()) {
        (_, Some(ok)) => ok.span(),
        (Reply::Fallible { whole, .. }, None) => whole.span(),
        (Reply::Plain(_), None) => plan.at,
    }
}

/// The token to blame for the error of a method.
pub(super) fn error_span(plan: &Plan<'_>, method: &Method) -> Span {
    method.reply.err().map_or_else(|| reply_span(plan, method), Spanned::span)
}

/// A statement that asks `AppError` of the error, in the words of the client's signature.
pub(super) fn ask_error(plan: &Plan<'_>, method: &Method) -> TokenStream {
    let error = client_error(plan, method);
    quote_spanned!(error_span(plan, method)=> let _: ::core::marker::PhantomData<#error>;)
}

fn ask(ty: &Type) -> TokenStream {
    quote_spanned!(ty.span()=> __sinew_wire::<#ty>();)
}

/// What [`ask_args`] and [`ask_reply`] call; every block of generated code has its own.
pub(super) fn questions(plan: &Plan<'_>) -> TokenStream {
    let (at, p) = (plan.at, &plan.p);
    quote_spanned! {at=>
        const fn __sinew_wire<T: #p::Wire>() {}
        const fn __sinew_reply<T: #p::ReplyShape>() {}
    }
}

/// Checks that only the compiler can make, because they need types or `#[cfg]`.
pub(super) fn checks(plan: &Plan<'_>) -> TokenStream {
    let mut tokens = disguised_results(plan);
    tokens.extend(conditional_clashes(plan));
    tokens
}

/// Refuses plain returns that are a `Result` under another name.
///
/// An inherent constant wins over a trait's, so `IS_RESULT` is true exactly for a `Result` that could travel; one that
/// could not is refused by `ReplyShape` already.
fn disguised_results(plan: &Plan<'_>) -> TokenStream {
    let (at, p) = (plan.at, &plan.p);
    let verdicts: Vec<_> = plan.service.calls().filter_map(|method| verdict(plan, method)).collect();
    if verdicts.is_empty() {
        return TokenStream::new();
    }
    quote_spanned! {at=>
        const _: () = {
            struct __SinewDisguise<T>(::core::marker::PhantomData<T>);
            impl<T: #p::Wire, E: #p::Wire> __SinewDisguise<::core::result::Result<T, E>> {
                const IS_RESULT: bool = true;
            }
            trait __SinewPlain {
                const IS_RESULT: bool = false;
            }
            impl<T> __SinewPlain for __SinewDisguise<T> {}
            #(#verdicts)*
        };
    }
}

fn verdict(plan: &Plan<'_>, method: &Method) -> Option<TokenStream> {
    let Reply::Plain(Some(ty)) = &method.reply else {
        return None;
    };
    let shown = syntax::shown(ty);
    let mut parameters = plan.service.item.generics.type_params();
    let is_generic = parameters.any(|parameter| syntax::mentions(quote!(#ty), &parameter.ident.to_string()));
    if is_generic || !matches!(syntax::peel(ty), Type::Path(_)) {
        return None;
    }
    let cfg = &method.attrs.cfg;
    let message = format!(
        "`{shown}` is a `Result` under another name: name it `Result<..>` in the signature of `{}`, so that its error \
         is seen to be one",
        method.sig.ident
    );
    Some(quote_spanned! {ty.span()=>
        #(#cfg)*
        const _: () = ::core::assert!(!<__SinewDisguise<#ty>>::IS_RESULT, #message);
    })
}

/// Two methods of one id are fine as long as `#[cfg]` keeps them apart.
fn conditional_clashes(plan: &Plan<'_>) -> TokenStream {
    let names = |method: &Method| -> Vec<(String, Span)> {
        let own = (method.path.clone(), method.sig.ident.span());
        let aliases =
            method.options.aliases.iter().map(|alias| (alias_path(plan.service, &alias.value()), alias.span()));
        std::iter::once(own).chain(aliases).collect()
    };
    let methods: Vec<&Method> = plan.service.calls().collect();
    let mut tokens = TokenStream::new();
    for (index, later) in methods.iter().enumerate() {
        for earlier in &methods[..index] {
            let same_ident = earlier.sig.ident == later.sig.ident;
            let clash = names(later).into_iter().find_map(|(path, span)| {
                let mut others = names(earlier).into_iter();
                let other = others.find(|(other, _)| ids::fnv1a(other) == ids::fnv1a(&path))?;
                Some((path, other.1, span))
            });
            let (Some((path, first, second)), false) = (clash, same_ident) else {
                continue;
            };
            let (cfg, cfg_too) = (&earlier.attrs.cfg, &later.attrs.cfg);
            let message = format!(
                "methods `{}` and `{}` share the wire id of `{path}` under this configuration: give one another name \
                 with `#[rpc(name = \"..\")]`",
                earlier.sig.ident, later.sig.ident
            );
            // The compiler marks what reaches from the first token to the last one.
            let refuse = quote_spanned!(first=> ::core::compile_error!);
            let reason = quote_spanned!(second=> { #message });
            tokens.extend(quote!(#(#cfg)* #(#cfg_too)* #refuse #reason));
        }
    }
    tokens
}

//! The trait: as written, with `impl Future + Send` for `async` and the hidden hooks of interceptors.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::{FnArg, ReceiverKind, ReturnType, Signature, TraitItem, TraitItemFn, Type, TypeParamBound};

use super::Plan;
use crate::ast::Method;
use crate::syntax;

pub(super) fn expand(plan: &Plan<'_>) -> TokenStream {
    let item = &plan.service.item;
    let at = plan.at;
    let (attrs, vis, ident, unsafety) = (&item.attrs, &item.vis, &item.ident, &item.unsafety);
    let (keyword, generics, bounds) = (&item.trait_token, &item.generics, &item.generics.where_clause);
    let supertraits = supertraits(plan);
    let kept = plan.service.kept.iter().map(|kept| keep(plan, kept));
    // A method that is named like a hook is a fault, and would be a second one beside the hook.
    let written = plan.service.methods.iter().filter(|method| !(method.broken && is_hook(method)));
    let methods = written.map(|method| self::method(plan, method));
    let (hooks, objects) = (hooks(plan), objects(plan));
    quote_spanned! {at=>
        #(#attrs)*
        #objects
        #vis #unsafety #keyword #ident #generics: #supertraits #bounds {
            #(#kept)*
            #(#methods)*
            #hooks
        }
    }
}

/// Says in the trait's documentation how to get a trait object of it, which the compiler's own error cannot.
///
/// An undocumented trait stays so, or `missing_docs` would not find it.
fn objects(plan: &Plan<'_>) -> Option<TokenStream> {
    let item = &plan.service.item;
    item.attrs.iter().find(|attr| attr.path().is_ident("doc"))?;
    let ident = &item.ident;
    let advice = if plan.service.options.dynamic.is_some() {
        format!("For trait objects use `Arc<dyn Dyn{ident}>`; `dyn {ident}` does not exist.")
    } else {
        format!(
            "`dyn {ident}` does not exist: for trait objects write `#[service(dyn)]` and use `Arc<dyn Dyn{ident}>`."
        )
    };
    Some(quote_spanned!(plan.at=> #[doc = ""] #[doc = #advice]))
}

/// The user's supertraits, and what a server needs of a handler.
fn supertraits(plan: &Plan<'_>) -> TokenStream {
    let at = plan.at;
    let written = &plan.service.item.supertraits;
    let has = |name: &str| {
        written.iter().any(|bound| match bound {
            TypeParamBound::Trait(bound) => bound.path.is_ident(name),
            TypeParamBound::Lifetime(lifetime) => lifetime.ident == name,
            _ => false,
        })
    };
    let mut bounds: Vec<TokenStream> = written.iter().map(ToTokens::to_token_stream).collect();
    for (name, bound) in [
        ("Send", quote_spanned!(at=> ::core::marker::Send)),
        ("Sync", quote_spanned!(at=> ::core::marker::Sync)),
        ("static", quote_spanned!(at=> 'static)),
    ] {
        if !has(name) {
            bounds.push(bound);
        }
    }
    quote!(#(#bounds)+*)
}

/// A skipped function; its future is `Send` as well, or generic code could not spawn it.
fn keep(plan: &Plan<'_>, item: &TraitItem) -> TokenStream {
    let TraitItem::Fn(TraitItemFn {
        attrs, sig, default, ..
    }) = item
    else {
        return item.to_token_stream();
    };
    if sig.asyncness.is_none() {
        return item.to_token_stream();
    }
    let body = default.as_ref().map(|body| body.to_token_stream());
    let body = async_body(plan, sig, body);
    let sig = signature(plan, sig);
    quote!(#(#attrs)* #sig #body)
}

fn is_hook(method: &Method) -> bool {
    let name = method.sig.ident.to_string();
    name == "__links" || name == super::SERVICE_MARK || name.starts_with("__around")
}

fn method(plan: &Plan<'_>, method: &Method) -> TokenStream {
    let (cfg, shown, other) = (&method.attrs.cfg, &method.attrs.shown, &method.attrs.other);
    let (mut sig, mut body) = (method.sig.clone(), method.body.as_ref().map(ToTokens::to_token_stream));
    if method.broken {
        body = mend(plan, &mut sig);
    }
    let tokens = if sig.asyncness.is_some() {
        let body = async_body(plan, &sig, body);
        let sig = signature(plan, &sig);
        quote!(#sig #body)
    } else {
        let end = body.unwrap_or_else(|| quote!(;));
        quote!(#sig #end)
    };
    quote!(#(#cfg)* #(#shown)* #(#other)* #tokens)
}

/// `-> impl Future<Output = R> + Send` instead of `async`.
fn signature(plan: &Plan<'_>, sig: &Signature) -> Signature {
    let at = plan.at;
    let output = match &sig.output {
        ReturnType::Default => quote_spanned!(at=> ()),
        ReturnType::Type(_, ty) => ty.to_token_stream(),
    };
    // The compiler points here when a handler's future is not `Send`.
    let send = quote_spanned!(sig.ident.span()=> ::core::marker::Send);
    let future = quote_spanned!(at=> impl ::core::future::Future<Output = #output> + #send);
    let mut sig = sig.clone();
    sig.asyncness = None;
    sig.output = ReturnType::Type(syn::token::RArrow { spans: [at, at] }, Box::new(Type::Verbatim(future)));
    sig
}

/// A default body as the future that `async` would have made of it.
///
/// The never-taken `return` tells the compiler the block's type, so that `?` and `into()` infer as in an `async fn`.
fn async_body(plan: &Plan<'_>, sig: &Signature, body: Option<TokenStream>) -> TokenStream {
    let at = plan.at;
    let Some(body) = body else { return quote!(;) };
    let output = match &sig.output {
        ReturnType::Default => quote_spanned!(at=> ()),
        ReturnType::Type(_, ty) => ty.to_token_stream(),
    };
    quote_spanned! {at=>
        {
            async move {
                if let ::core::option::Option::Some(__sinew_never) = ::core::option::Option::None::<#output> {
                    return __sinew_never;
                }
                let __sinew_output: #output = #body;
                #[allow(unreachable_code, reason = "a body may diverge")]
                __sinew_output
            }
        }
    }
}

/// Makes a faulty signature acceptable to the compiler, and gives it a body, so that nobody needs to call or
/// implement it before the fault is mended.
fn mend(plan: &Plan<'_>, sig: &mut Signature) -> Option<TokenStream> {
    let at = plan.at;
    for input in &mut sig.inputs {
        if let FnArg::Typed(input) = input {
            *input.pat = syn::Pat::Wild(syn::PatWild {
                attrs: Vec::new(),
                underscore_token: syn::token::Underscore { spans: [at] },
            });
        }
    }
    sig.constness = None;
    sig.abi = None;
    let by_value = sig.receiver().is_some_and(|receiver| !matches!(receiver.kind, ReceiverKind::Reference(..)));
    if by_value && sig.generics.where_clause.is_none() {
        sig.generics.where_clause = Some(syn::parse_quote!(where Self: ::core::marker::Sized));
    }
    let opaque = syntax::mentions(sig.output.to_token_stream(), "impl");
    if !opaque {
        Some(quote_spanned!(at=> { ::core::unreachable!() }))
    } else if sig.asyncness.is_none() {
        Some(quote_spanned!(at=> { ::core::future::pending() }))
    } else {
        None
    }
}

/// The provided methods that `#[service]` on an impl overrides.
fn hooks(plan: &Plan<'_>) -> TokenStream {
    let (at, p) = (plan.at, &plan.p);
    let around = plan.service.calls().map(|method| {
        let (cfg, hook) = (&method.attrs.cfg, method.hook());
        hook_fn(plan, &quote!(#(#cfg)*), &hook)
    });
    let outer = hook_fn(plan, &TokenStream::new(), &syn::Ident::new("__around", at));
    let mark = syn::Ident::new(super::SERVICE_MARK, at);
    quote_spanned! {at=>
        #[doc(hidden)]
        fn __links(&self) -> #p::Links {
            <#p::Links as ::core::default::Default>::default()
        }
        #[doc(hidden)]
        fn #mark()
        where
            Self: ::core::marker::Sized,
        {
        }
        #outer
        #(#around)*
    }
}

fn hook_fn(plan: &Plan<'_>, cfg: &TokenStream, name: &syn::Ident) -> TokenStream {
    let (at, p, next) = (plan.at, &plan.p, &plan.next);
    quote_spanned! {at=>
        #cfg
        #[doc(hidden)]
        fn #name<#next: #p::Next>(
            &self,
            _: &#p::Links,
            __sinew_cx: &mut #p::Cx,
            __sinew_next: #next,
        ) -> impl ::core::future::Future<Output = #p::Outcome> + ::core::marker::Send {
            #p::Next::run(__sinew_next, __sinew_cx)
        }
    }
}

//! `#[interceptor]` on an `async fn`: a unit struct, or with further parameters a struct and its constructor.
//!
//! Inside the body a further parameter is what it is declared as, if that is `Copy` as far as the spelling tells
//! (numbers, `bool`, `char`, `&'static T`, `Duration`); any other is a reference to the value that the constructor got.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote_spanned};
use syn::{Attribute, FnArg, Ident, ItemFn, Pat, PatType, ReturnType, Type, TypeParamBound};

use crate::attr::{self, Attrs};
use crate::faults::Faults;
use crate::paths::Root;
use crate::syntax::{self, Names};

const EXPECTED: &str = "expected `async fn name(cx: &mut Cx, next: impl Next) -> Outcome`";

/// The function, read.
struct Definition<'a> {
    item: &'a ItemFn,
    cx: &'a PatType,
    next: &'a PatType,
    /// The bound of `next`, as the user spells it.
    bound: TokenStream,
    fields: Vec<(&'a Ident, &'a Type)>,
}

/// Expands a definition; after a fault a struct of the same name remains, so that uses of it are no errors.
pub(crate) fn definition(item: &ItemFn, root: &Root, faults: &mut Faults) -> TokenStream {
    let before = faults.count();
    match read(item, faults) {
        Some(definition) if faults.count() == before => expand(&definition, root),
        _ => fallback(item, root),
    }
}

fn read<'a>(item: &'a ItemFn, faults: &mut Faults) -> Option<Definition<'a>> {
    let sig = &item.sig;
    if sig.asyncness.is_none() {
        faults.on(
            sig.fn_token,
            format!("an interceptor waits for what is below it: {EXPECTED}"),
        );
        return None;
    }
    if !sig.generics.params.is_empty() || sig.generics.where_clause.is_some() {
        faults.on(
            &sig.generics,
            format!("an interceptor is one type for every method: remove the generics; {EXPECTED}"),
        );
        return None;
    }
    let mut params = sig.inputs.iter().filter_map(|input| match input {
        FnArg::Typed(param) => Some(param),
        FnArg::Receiver(_) => None,
    });
    let (Some(cx), Some(next)) = (params.next(), params.next()) else {
        faults.on(&sig.ident, EXPECTED);
        return None;
    };
    let is_cx = syntax::reference(&cx.ty).is_some_and(|ty| ty.mutability.is_some() && syntax::is(&ty.elem, "Cx"));
    if !is_cx {
        faults.on(&cx.ty, format!("the first parameter is `cx: &mut Cx`; {EXPECTED}"));
        return None;
    }
    let Some(bound) = next_bound(&next.ty) else {
        faults.on(
            &next.ty,
            format!("the second parameter is `next: impl Next`; {EXPECTED}"),
        );
        return None;
    };
    check_output(item, faults);
    check_next(item, next, faults);
    let fields = params.filter_map(|param| field(param, faults)).collect();
    Some(Definition {
        item,
        cx,
        next,
        bound,
        fields,
    })
}

/// `Next` of `impl Next`.
fn next_bound(ty: &Type) -> Option<TokenStream> {
    let Type::ImplTrait(ty) = syntax::peel(ty) else {
        return None;
    };
    let mut bounds = ty.bounds.iter();
    match (bounds.next(), bounds.next()) {
        (Some(TypeParamBound::Trait(bound)), None) if bound.path.segments.last()?.ident == "Next" => {
            Some(bound.to_token_stream())
        }
        _ => None,
    }
}

fn check_output(item: &ItemFn, faults: &mut Faults) {
    match &item.sig.output {
        ReturnType::Default => faults.on(
            &item.sig.ident,
            format!("an interceptor passes the outcome on; {EXPECTED}"),
        ),
        ReturnType::Type(_, ty) if syntax::is(ty, "Outcome") || syntax::is(ty, "Result") => {}
        ReturnType::Type(_, ty) => faults.on(ty, format!("an interceptor returns `Outcome`; {EXPECTED}")),
    }
}

/// `next` has to be used, or say by its name that it is not.
fn check_next(item: &ItemFn, next: &PatType, faults: &mut Faults) {
    let Pat::Ident(name) = &*next.pat else { return };
    let text = name.ident.to_string();
    if !text.starts_with('_') && !syntax::mentions(item.block.to_token_stream(), &text) {
        faults.on(
            &name.ident,
            format!("no call gets past this interceptor: write `{text}.run(cx).await`, or name it `_{text}` to say so"),
        );
    }
}

fn field<'a>(param: &'a PatType, faults: &mut Faults) -> Option<(&'a Ident, &'a Type)> {
    let name = match &*param.pat {
        Pat::Ident(pat) if pat.by_ref.is_none() && pat.subpat.is_none() && pat.mutability.is_none() => &pat.ident,
        other => {
            faults.on(
                other,
                "a setting of an interceptor needs a plain name: it becomes a field",
            );
            return None;
        }
    };
    let borrowed = syntax::find(
        &param.ty,
        |ty| matches!(ty, Type::Reference(reference) if reference.lifetime.as_ref().is_none_or(|lifetime| lifetime.ident != "static")),
    );
    let opaque = syntax::find(&param.ty, |ty| matches!(ty, Type::ImplTrait(_)));
    match (borrowed, opaque) {
        (Some(reference), _) => {
            faults.on(
                reference,
                "an interceptor outlives its constructor: write `&'static str`, or an owned type",
            );
            None
        }
        (_, Some(opaque)) => {
            faults.on(opaque, "a setting becomes a field: name its type");
            None
        }
        _ => Some((name, &*param.ty)),
    }
}

/// The attributes of the function, by where they go: struct, both, method body.
fn sorted(item: &ItemFn) -> (Vec<Attribute>, Vec<Attribute>, Vec<Attribute>) {
    let Attrs { cfg, shown, other } = Attrs::sort(item.attrs.clone());
    (shown, cfg, other)
}

fn expand(definition: &Definition<'_>, root: &Root) -> TokenStream {
    let at = Span::mixed_site();
    let item = definition.item;
    let (shown, cfg, other) = sorted(item);
    let ident = &item.sig.ident;
    let name = ident.to_string();
    let next = Names::of(item).fresh("N");
    let (cx, cx_ty, next_pat) = (&definition.cx.pat, &definition.cx.ty, &definition.next.pat);
    let (bound, block) = (&definition.bound, &item.block);
    let ReturnType::Type(_, output) = &item.sig.output else {
        return TokenStream::new();
    };
    let structure = structure(definition, &shown, &cfg);
    let settings = definition.fields.iter().map(|(name, ty)| setting(name, ty));
    quote_spanned! {at=>
        #structure
        #(#cfg)*
        #[automatically_derived]
        impl ::core::fmt::Debug for #ident {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.debug_struct(#name).finish_non_exhaustive()
            }
        }
        #(#cfg)*
        impl #root::Interceptor for #ident {
            #(#other)*
            async fn call<#next: #bound>(&self, #cx: #cx_ty, #next_pat: #next) -> #output {
                #(#settings)*
                #block
            }
        }
    }
}

fn structure(definition: &Definition<'_>, shown: &[Attribute], cfg: &[Attribute]) -> TokenStream {
    let at = Span::mixed_site();
    let (vis, ident) = (&definition.item.vis, &definition.item.sig.ident);
    let lower = quote_spanned! {at=>
        #[allow(non_camel_case_types, reason = "an interceptor is named like the function that defines it")]
    };
    if definition.fields.is_empty() {
        return quote_spanned! {at=>
            #(#cfg)*
            #(#shown)*
            #lower
            #[derive(::core::clone::Clone, ::core::marker::Copy)]
            #vis struct #ident;
        };
    }
    let (names, types): (Vec<_>, Vec<_>) = definition.fields.iter().copied().unzip();
    let docs = shown.iter().filter(|attr| attr::is(attr, "doc"));
    quote_spanned! {at=>
        #(#cfg)*
        #(#docs)*
        #lower
        #vis struct #ident {
            #(#names: #types),*
        }
        #(#cfg)*
        #(#shown)*
        #[must_use]
        #vis fn #ident(#(#names: #types),*) -> #ident {
            #ident { #(#names),* }
        }
    }
}

/// Binds a further parameter for the body.
fn setting(name: &Ident, ty: &Type) -> TokenStream {
    let at = Span::mixed_site();
    let unused = quote_spanned!(at=> #[allow(unused_variables, reason = "a setting may serve `Debug` only")]);
    if is_copy(ty) {
        quote_spanned!(at=> #unused let #name: #ty = self.#name;)
    } else {
        quote_spanned!(at=> #unused let #name: &#ty = &self.#name;)
    }
}

/// Whether a type is spelled like one that is `Copy`.
fn is_copy(ty: &Type) -> bool {
    const NAMES: &[&str] = &[
        "bool", "char", "f32", "f64", "i8", "i16", "i32", "i64", "i128", "isize", "u8", "u16", "u32", "u64", "u128",
        "usize", "Duration", "Instant",
    ];
    match syntax::peel(ty) {
        Type::Reference(reference) => reference.mutability.is_none(),
        Type::Tuple(tuple) => tuple.elems.iter().all(is_copy),
        other => NAMES.iter().any(|name| syntax::is(other, name)),
    }
}

/// A struct of the name, that passes every call on.
fn fallback(item: &ItemFn, root: &Root) -> TokenStream {
    let at = Span::mixed_site();
    let (shown, cfg, _) = sorted(item);
    let (vis, ident) = (&item.vis, &item.sig.ident);
    quote_spanned! {at=>
        #(#cfg)*
        #(#shown)*
        #[allow(non_camel_case_types, dead_code, reason = "stands in for a faulty interceptor")]
        #[derive(::core::clone::Clone, ::core::marker::Copy, ::core::fmt::Debug)]
        #vis struct #ident;
        #(#cfg)*
        impl #root::Interceptor for #ident {
            async fn call<N: #root::Next>(&self, __sinew_cx: &mut #root::Cx, __sinew_next: N) -> #root::Outcome {
                #root::Next::run(__sinew_next, __sinew_cx).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(item: &ItemFn) -> usize {
        let mut faults = Faults::default();
        definition(item, &Root::default(), &mut faults);
        faults.count()
    }

    #[test]
    fn spelling_tells_what_is_copied() {
        for ty in ["u32", "&'static str", "(u8, bool)", "std::time::Duration"] {
            assert!(syn::parse_str(ty).is_ok_and(|ty| is_copy(&ty)), "{ty}");
        }
        for ty in ["String", "Arc<Limiter>", "(u8, String)"] {
            assert!(syn::parse_str(ty).is_ok_and(|ty| !is_copy(&ty)), "{ty}");
        }
    }

    #[test]
    fn next_may_be_unused_only_by_name() {
        let unused: ItemFn = syn::parse_quote! {
            async fn deny(cx: &mut Cx, next: impl Next) -> Outcome { Err(Status::internal("")) }
        };
        let named: ItemFn = syn::parse_quote! {
            async fn deny(cx: &mut Cx, _next: impl Next) -> Outcome { Err(Status::internal("")) }
        };
        assert_eq!((faults(&unused), faults(&named)), (1, 0));
    }
}

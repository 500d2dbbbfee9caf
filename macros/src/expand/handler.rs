//! `#[service]` on an impl: the impl as written, with the hooks of its stacked interceptors.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::{Attribute, Ident, ImplItem, ItemImpl};

use super::chain::Makers;
use super::{SERVICE_MARK, hidden};
use crate::attr;
use crate::faults::Faults;
use crate::links::{self, Link, Place};
use crate::paths::Root;
use crate::syntax::Names;

/// The interceptors of one impl, taken off it.
struct Stacked {
    links: Vec<Link>,
    methods: Vec<StackedMethod>,
}

struct StackedMethod {
    cfg: Vec<Attribute>,
    ident: Ident,
    links: Vec<Link>,
}

/// Expands `#[service]` on an impl; faults leave the impl without hooks.
pub(crate) fn handler(mut item: ItemImpl, root: &Root, faults: &mut Faults) -> TokenStream {
    let before = faults.count();
    attr::refuse_async_trait(&mut item.attrs, faults);
    let stacked = take(&mut item, faults);
    if item.trait_.is_none() {
        faults.on(
            item.impl_token,
            "`#[service]` goes on a trait and on its implementations: write `impl Orders for ..`",
        );
    }
    if faults.count() > before {
        return quote!(#item);
    }
    if stacked.is_empty() {
        let asked = ask_for_service(&item);
        return quote!(#item #asked);
    }
    let mut makers = Makers::new(root);
    let next = Names::of(&item).fresh("N");
    let mut hooks = Vec::new();
    if !stacked.links.is_empty() {
        hooks.push(hook(
            root,
            &Ident::new("__around", Span::mixed_site()),
            &next,
            &[],
            &stacked.links,
            &mut makers,
        ));
    }
    for method in &stacked.methods {
        hooks.push(hook(
            root,
            &hidden("__around_", &method.ident),
            &next,
            &method.cfg,
            &method.links,
            &mut makers,
        ));
    }
    hooks.extend(links_fn(root, &makers));
    item.items.extend(hooks.into_iter().map(ImplItem::Verbatim));
    let functions = makers.functions();
    // One below `#[service]` has not been judged yet.
    let cfg = item.attrs.iter().filter(|attr| attr::is(attr, "cfg"));
    quote_spanned! {Span::mixed_site()=>
        #(#cfg)*
        const _: () = {
            #functions
            #item
        };
    }
}

/// Fails where the trait is no service: then the attribute on its implementation would do nothing. Hooks ask the same where there are any.
fn ask_for_service(item: &ItemImpl) -> Option<TokenStream> {
    let (contract, _) = item.trait_.as_ref()?;
    let (at, this) = (Span::mixed_site(), &item.self_ty);
    let (generics, _, bounds) = item.generics.split_for_impl();
    // The compiler says that the trait does not have this, so its name is the advice.
    let advice = Ident::new(SERVICE_MARK, at);
    let cfg = item.attrs.iter().filter(|attr| attr::is(attr, "cfg"));
    Some(quote_spanned! {at=>
        #(#cfg)*
        const _: () = {
            #[allow(dead_code, reason = "asks the compiler a question")]
            fn __sinew_ask #generics () #bounds {
                let _ = <#this as #contract>::#advice;
            }
        };
    })
}

impl Stacked {
    fn is_empty(&self) -> bool {
        self.links.is_empty() && self.methods.is_empty()
    }
}

fn take(item: &mut ItemImpl, faults: &mut Faults) -> Stacked {
    let generics = item.generics.clone();
    let place = Place {
        fields: true,
        generics: &generics,
    };
    let links = links::take(&mut item.attrs, &place, faults);
    let mut methods = Vec::new();
    for member in &mut item.items {
        let ImplItem::Fn(function) = member else { continue };
        attr::refuse_late(&mut function.attrs, faults);
        for attr in attr::take(&mut function.attrs, "rpc") {
            faults.on(attr, "`#[rpc]` belongs to the contract: put it on the trait's method");
        }
        let links = links::take(&mut function.attrs, &place, faults);
        if !links.is_empty() {
            let cfg = function.attrs.iter().filter(|attr| attr::is(attr, "cfg")).cloned().collect();
            methods.push(StackedMethod {
                cfg,
                ident: function.sig.ident.clone(),
                links,
            });
        }
    }
    Stacked { links, methods }
}

/// Overrides one hook of the trait.
fn hook(
    root: &Root,
    name: &Ident,
    next: &Ident,
    cfg: &[Attribute],
    links: &[Link],
    makers: &mut Makers<'_>,
) -> TokenStream {
    let at = Span::mixed_site();
    // A field is read from the user's `self`, so the receiver has to come from the same macro, if from any.
    let receiver = links.iter().find_map(Link::receiver).unwrap_or_else(|| Ident::new("self", at));
    let stored = quote_spanned!(at=> __sinew_links);
    let chain = makers.wrap(links, cfg, &stored, quote_spanned!(at=> __sinew_next));
    quote_spanned! {at=>
        #(#cfg)*
        async fn #name<#next: #root::Next>(
            &#receiver,
            __sinew_links: &#root::Links,
            __sinew_cx: &mut #root::Cx,
            __sinew_next: #next,
        ) -> #root::Outcome {
            let _ = __sinew_links;
            #chain
        }
    }
}

/// Overrides `__links`, if there is a constructor.
fn links_fn(root: &Root, makers: &Makers<'_>) -> Option<TokenStream> {
    let filled = makers.filled()?;
    Some(quote_spanned! {Span::mixed_site()=>
        fn __links(&self) -> #root::Links {
            #filled
        }
    })
}

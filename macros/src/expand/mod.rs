//! Ties the parts of an expansion together.
//!
//! Generated items that nobody names stand in `const _: () = { .. }` blocks; everything in them starts with
//! `__sinew`, because items are not hygienic. Locals have mixed-site spans and the same prefix, since a pattern may
//! also be read as somebody's constant.

mod app_error;
mod chain;
mod client;
mod dynamic;
mod handler;
mod interceptor;
mod mock;
mod server;
mod spec;
mod trait_item;

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::{Attribute, GenericParam, Ident, Visibility};

pub(crate) use app_error::app_error;
pub(crate) use handler::handler;
pub(crate) use interceptor::definition;

use crate::ast::{Method, Service, plain_name};
use crate::attr::Attrs;
use crate::paths::Root;
use crate::syntax::Names;

/// Everything that `#[service]` on a trait emits.
pub(crate) fn service(service: &Service) -> TokenStream {
    let plan = Plan::new(service);
    let options = &service.options;
    let mut tokens = trait_item::expand(&plan);
    tokens.extend(client::expand(&plan));
    tokens.extend(server::expand(&plan));
    if options.transparent.is_some() {
        tokens.extend(client::transparent(&plan));
    }
    if options.dynamic.is_some() {
        tokens.extend(dynamic::expand(&plan));
    }
    if options.mock.is_some() {
        tokens.extend(mock::expand(&plan));
    }
    tokens.extend(spec::checks(&plan));
    under_cfg(service, tokens)
}

/// Puts the trait's `#[cfg]` on every generated item: one below `#[service]` has not been judged yet.
fn under_cfg(service: &Service, tokens: TokenStream) -> TokenStream {
    let cfg = Attrs::sort(service.item.attrs.clone()).cfg;
    if cfg.is_empty() {
        return tokens;
    }
    match syn::parse2::<syn::File>(tokens.clone()) {
        Ok(file) => file.items.iter().map(|item| quote!(#(#cfg)* #item)).collect(),
        // The compiler says it better.
        Err(_) => tokens,
    }
}

/// The service together with the names and generics that all parts share.
struct Plan<'a> {
    service: &'a Service,
    /// `::sinew::__private`.
    p: Root,
    /// Span of generated tokens.
    at: Span,
    vis: TokenStream,
    client: Ident,
    server: Ident,
    /// Type parameter for the handler.
    handler: Ident,
    /// Type parameter for the rest of a chain.
    next: Ident,
    /// Parameters of the trait with bounds, each followed by a comma.
    decl: TokenStream,
    /// Parameters of the trait by name, each followed by a comma.
    names: TokenStream,
    /// Arguments for lifetimes of the trait, each followed by a comma.
    lifetimes: TokenStream,
    /// Predicates of the trait, each followed by a comma.
    bounds: TokenStream,
    /// `PhantomData` over the parameters.
    marker: TokenStream,
}

impl<'a> Plan<'a> {
    fn new(service: &'a Service) -> Self {
        let at = Span::mixed_site();
        let item = &service.item;
        let mut words = Names::of(item);
        for method in &service.methods {
            words.add(&method.sig);
        }
        let (mut decl, mut names, mut types) = (TokenStream::new(), TokenStream::new(), TokenStream::new());
        let mut lifetimes = TokenStream::new();
        for parameter in &item.generics.params {
            let Some((declared, name)) = undecorated(parameter) else {
                // A fault; `'static` keeps it the only one.
                lifetimes.extend(quote!('static,));
                continue;
            };
            decl.extend(quote!(#declared,));
            names.extend(quote!(#name,));
            if let GenericParam::Type(_) = parameter {
                types.extend(quote!(#name,));
            }
        }
        let bounds = item.generics.where_clause.iter().flat_map(|clause| &clause.predicates);
        Self {
            service,
            p: service.options.root.clone(),
            at,
            vis: quiet(&item.vis),
            client: format_ident!("{}Client", item.ident),
            server: format_ident!("{}Server", item.ident),
            handler: words.fresh("S"),
            next: words.fresh("N"),
            bounds: quote!(#(#bounds,)*),
            marker: quote_spanned!(at=> ::core::marker::PhantomData<fn() -> (#types)>),
            decl,
            names,
            lifetimes,
        }
    }

    /// The trait with its arguments.
    fn contract(&self) -> TokenStream {
        let (ident, lifetimes, names) = (&self.service.item.ident, &self.lifetimes, &self.names);
        if lifetimes.is_empty() && names.is_empty() {
            quote!(#ident)
        } else {
            quote!(#ident<#lifetimes #names>)
        }
    }

    /// A companion of the trait with its arguments.
    fn companion(&self, ident: &Ident) -> TokenStream {
        let names = &self.names;
        if names.is_empty() {
            quote!(#ident)
        } else {
            quote!(#ident<#names>)
        }
    }

    /// `#[allow(..)]` for items that call user code or may stay unused.
    fn allow(&self) -> TokenStream {
        quote_spanned! {self.at=>
            #[allow(dead_code, deprecated, reason = "generated from the trait, whatever of it is used")]
        }
    }
}

/// A type or constant parameter without its default, and its name.
fn undecorated(parameter: &GenericParam) -> Option<(TokenStream, TokenStream)> {
    let mut parameter = parameter.clone();
    Some(match &mut parameter {
        GenericParam::Type(ty) => {
            ty.default = None;
            ty.attrs.clear();
            (ty.to_token_stream(), ty.ident.to_token_stream())
        }
        GenericParam::Const(constant) => {
            constant.default = None;
            constant.attrs.clear();
            (constant.to_token_stream(), constant.ident.to_token_stream())
        }
        GenericParam::Lifetime(_) => return None,
    })
}

/// The same visibility under a generated span, so that lints about it name the user's item only.
fn quiet(vis: &Visibility) -> TokenStream {
    match vis {
        Visibility::Public(_) => quote_spanned!(Span::mixed_site()=> pub),
        other => other.to_token_stream(),
    }
}

/// The predicate of a `#[cfg(..)]`.
fn predicate(attr: &Attribute) -> TokenStream {
    match &attr.meta {
        syn::Meta::List(list) => list.tokens.clone(),
        other => other.to_token_stream(),
    }
}

/// What every service trait has, and no other; `#[service]` on an impl asks for it.
const SERVICE_MARK: &str = "__put_service_above_the_trait_too";

/// A hidden name derived from a method's.
fn hidden(prefix: &str, method: &Ident) -> Ident {
    format_ident!("{prefix}{}", plain_name(method), span = Span::mixed_site())
}

impl Method {
    /// The constant on the client that holds the method's `MethodSpec`.
    fn spec(&self) -> Ident {
        hidden("__spec_", &self.sig.ident)
    }

    /// The hook that interceptors of the method override.
    fn hook(&self) -> Ident {
        hidden("__around_", &self.sig.ident)
    }

    /// What the handler returns.
    fn output(&self, at: Span) -> TokenStream {
        match &self.sig.output {
            syn::ReturnType::Default => quote_spanned!(at=> ()),
            syn::ReturnType::Type(_, ty) => ty.to_token_stream(),
        }
    }
}

//! Nests interceptors: `Link { a, Link { b, next } }`, without a box per link.
//!
//! Constructors become functions, because their types may be unnameable; `Links` runs each once per server and finds
//! its result by number and by that function's type.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::Attribute;

use super::predicate;
use crate::links::Link;
use crate::paths::Root;

/// The constructors of one trait or impl, numbered in order of appearance.
pub(super) struct Makers<'a> {
    p: &'a Root,
    functions: TokenStream,
    count: usize,
    /// Whether a constructor may be configured away.
    conditional: bool,
    /// Whether a chain asks `Interceptor` of something that the user names.
    asks: bool,
}

impl<'a> Makers<'a> {
    pub(super) fn new(p: &'a Root) -> Self {
        Self {
            p,
            functions: TokenStream::new(),
            count: 0,
            conditional: false,
            asks: false,
        }
    }

    /// The future of `links` around `next`, outermost first, as an expression.
    ///
    /// `cfg` is the condition under which the expression exists; numbers do not depend on it.
    pub(super) fn wrap(
        &mut self,
        links: &[Link],
        cfg: &[Attribute],
        stored: &TokenStream,
        next: TokenStream,
    ) -> TokenStream {
        let (at, p) = (Span::mixed_site(), self.p);
        let references: Vec<_> = links.iter().map(|link| self.reference(link, cfg, stored)).collect();
        let chain = references.into_iter().rev().fold(
            next,
            |next, reference| quote_spanned!(at=> #p::Link::new(#reference, #next)),
        );
        quote_spanned!(at=> #p::Next::run(#chain, __sinew_cx).await)
    }

    fn reference(&mut self, link: &Link, cfg: &[Attribute], stored: &TokenStream) -> TokenStream {
        let at = Span::mixed_site();
        match link {
            Link::Path(expr) | Link::Field(expr) => {
                self.asks = true;
                let span = link.span();
                let asked = quote_spanned!(span=> __sinew_interceptor(&#expr));
                quote_spanned!(at=> __SinewLink(#asked).or_absent())
            }
            Link::Make(built, span) => {
                let (number, function) = (self.count, self.name(self.count));
                self.count += 1;
                let tokens = self.function(&function, built, cfg, *span);
                self.functions.extend(tokens);
                quote_spanned!(at=> #stored.get(#number, #function))
            }
        }
    }

    /// A constructor, or under a false condition something that takes its number.
    fn function(&mut self, name: &Ident, built: &TokenStream, cfg: &[Attribute], span: Span) -> TokenStream {
        let (at, p) = (Span::mixed_site(), self.p);
        let made = quote_spanned!(span=> fn #name() -> impl #p::Interceptor { #built });
        if cfg.is_empty() {
            return made;
        }
        self.conditional = true;
        let conditions = cfg.iter().map(predicate);
        quote_spanned! {at=>
            #(#cfg)*
            #made
            #[cfg(not(all(#(#conditions),*)))]
            fn #name() -> __SinewAbsent { __SinewAbsent }
        }
    }

    fn name(&self, number: usize) -> Ident {
        format_ident!("__sinew_link_{number}", span = Span::mixed_site())
    }

    /// The functions; items of the block that the chains stand in.
    pub(super) fn functions(&self) -> TokenStream {
        let (at, p) = (Span::mixed_site(), self.p);
        let mut functions = self.functions.clone();
        if self.asks {
            functions.extend(questions(p));
        }
        if !self.conditional && !self.asks {
            return functions;
        }
        quote_spanned! {at=>
            #functions
            struct __SinewAbsent;
            impl #p::Interceptor for __SinewAbsent {
                async fn call<N: #p::Next>(&self, __sinew_cx: &mut #p::Cx, __sinew_next: N) -> #p::Outcome {
                    #p::Next::run(__sinew_next, __sinew_cx).await
                }
            }
        }
    }

    /// `Links` filled by running every constructor, or nothing if there is none.
    pub(super) fn filled(&self) -> Option<TokenStream> {
        let (at, p) = (Span::mixed_site(), self.p);
        let names = (0..self.count).map(|number| self.name(number));
        (self.count > 0).then(|| {
            quote_spanned! {at=>
                let mut __sinew_links = <#p::Links as ::core::default::Default>::default();
                #(__sinew_links.push(#names);)*
                __sinew_links
            }
        })
    }

    /// An expression for the links of a trait, which may be none.
    pub(super) fn filled_or_none(&self) -> TokenStream {
        let (at, p) = (Span::mixed_site(), self.p);
        self.filled().map_or_else(
            || quote_spanned!(at=> <#p::Links as ::core::default::Default>::default()),
            |filled| quote!({ #filled }),
        )
    }
}

/// What a chain asks of each path and field.
///
/// Something else than an interceptor fails the question, and only that: the rest of the chain goes on with a link that
/// does nothing, because a trait's method is what is left when the inherent one does not apply.
fn questions(p: &Root) -> TokenStream {
    quote_spanned! {Span::mixed_site()=>
        const fn __sinew_interceptor<T: #p::Interceptor>(interceptor: &T) -> &T {
            interceptor
        }
        struct __SinewLink<'a, T>(&'a T);
        impl<'a, T: #p::Interceptor> __SinewLink<'a, T> {
            const fn or_absent(self) -> &'a T {
                self.0
            }
        }
        trait __SinewOrAbsent: ::core::marker::Sized {
            fn or_absent(self) -> &'static __SinewAbsent {
                &__SinewAbsent
            }
        }
        impl<T> __SinewOrAbsent for __SinewLink<'_, T> {}
    }
}

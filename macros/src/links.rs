//! The list of `#[interceptor(..)]`: what stacks, outermost first.
//!
//! An item is a path (`audit`), a field (`self.limiter`), or a constructor (`role("admin", audit = true)`), where
//! `key = value` becomes the chained setter `.key(value)`. Constructors run once per server instance.

use proc_macro2::{Span, TokenStream};
use quote::quote_spanned;
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Attribute, Expr, ExprCall, Ident, Meta, Token};

use crate::attr;
use crate::faults::Faults;
use crate::syntax;

/// One interceptor of a list.
pub(crate) enum Link {
    /// A unit struct, constant or static.
    Path(Expr),
    /// A field of the handler.
    Field(Expr),
    /// An expression that builds one.
    Make(TokenStream, Span),
}

/// Where a list stands, which decides what its items may name.
pub(crate) struct Place<'a> {
    /// Whether `self` is a handler with fields.
    pub(crate) fields: bool,
    /// Generic parameters that are in sight but out of reach of a constructor.
    pub(crate) generics: &'a syn::Generics,
}

impl Link {
    /// The tokens to blame when the item is no interceptor.
    pub(crate) fn span(&self) -> Span {
        match self {
            Self::Path(expr) | Self::Field(expr) => expr.span(),
            Self::Make(_, span) => *span,
        }
    }

    /// The `self` that a field is read from, whose hygiene the receiver has to share.
    pub(crate) fn receiver(&self) -> Option<Ident> {
        match self {
            Self::Field(expr) => syntax::word(quote::ToTokens::to_token_stream(expr), "self"),
            _ => None,
        }
    }
}

/// Removes all `#[interceptor(..)]` from `attrs` and returns their items, topmost first.
pub(crate) fn take(attrs: &mut Vec<Attribute>, place: &Place<'_>, faults: &mut Faults) -> Vec<Link> {
    let mut links = Vec::new();
    for attr in attr::take(attrs, "interceptor") {
        match &attr.meta {
            Meta::List(list) if !list.tokens.is_empty() => {
                links.extend(parse(list.tokens.clone(), place, faults));
            }
            _ => faults.on(&attr, EMPTY),
        }
    }
    links
}

pub(crate) const EMPTY: &str =
    "an empty list stacks nothing: name the interceptors, e.g. `#[interceptor(audit)]`, or remove the attribute";

fn parse(tokens: TokenStream, place: &Place<'_>, faults: &mut Faults) -> Vec<Link> {
    let parsed = Punctuated::<Expr, Token![,]>::parse_terminated.parse2(tokens);
    let items = faults.check(parsed).into_iter().flatten();
    items.filter_map(|item| link(item, place, faults)).collect()
}

fn link(item: Expr, place: &Place<'_>, faults: &mut Faults) -> Option<Link> {
    match item {
        Expr::Path(ref path) if !path.path.is_ident("self") => Some(Link::Path(item)),
        Expr::Field(_) if is_field_of_self(&item) => {
            if place.fields {
                return Some(Link::Field(item));
            }
            faults.on(
                &item,
                "a trait has no fields: stack `self.field` on the `impl` that has it",
            );
            None
        }
        Expr::Call(call) => constructor(&call, place, faults),
        Expr::Reference(reference) => {
            faults.on(
                reference.and_token,
                "remove the `&`: interceptors in a list are taken by reference anyway",
            );
            None
        }
        other => {
            faults.on(
                other,
                "expected an interceptor: a path (`audit`), `self.field`, or `name(args, key = value)`",
            );
            None
        }
    }
}

fn is_field_of_self(expr: &Expr) -> bool {
    match expr {
        Expr::Field(field) => match &*field.base {
            Expr::Path(path) => path.path.is_ident("self"),
            base => is_field_of_self(base),
        },
        _ => false,
    }
}

/// `name(a, key = b)` becomes `name(a).key(b)`.
fn constructor(call: &ExprCall, place: &Place<'_>, faults: &mut Faults) -> Option<Link> {
    let at = Span::mixed_site();
    let before = faults.count();
    refuse_unreachable(call, place, faults);
    let (mut positional, mut setters) = (Vec::new(), TokenStream::new());
    for arg in &call.args {
        match arg {
            Expr::Assign(pair) => {
                let value = &pair.right;
                match &*pair.left {
                    Expr::Path(key) if key.path.get_ident().is_some() => {
                        let key = &key.path;
                        setters.extend(quote_spanned! {at=> .#key(#value) });
                    }
                    other => faults.on(other, "expected a setter's name, as in `per = \"1s\"`"),
                }
            }
            value if setters.is_empty() => positional.push(value),
            value => faults.on(value, "positional arguments come before `key = value`"),
        }
    }
    let function = &call.func;
    let built = quote_spanned! {at=> #function(#(#positional),*) #setters };
    (faults.count() == before).then(|| Link::Make(built, call.func.span()))
}

/// A constructor runs before there is a handler, outside of the `impl`.
fn refuse_unreachable(call: &ExprCall, place: &Place<'_>, faults: &mut Faults) {
    let tokens = quote::ToTokens::to_token_stream(call);
    if let Some(word) = syntax::word(tokens.clone(), "self") {
        faults.on(
            word,
            "a constructor runs once per server, before there is a `self`: build the interceptor in a field and stack \
             `self.field`",
        );
    }
    if let Some(word) = syntax::word(tokens.clone(), "Self") {
        faults.on(
            word,
            "a constructor runs outside of the `impl`: name the type instead of `Self`",
        );
    }
    for parameter in place.generics.type_params() {
        if let Some(word) = syntax::word(tokens.clone(), &parameter.ident.to_string()) {
            faults.on(
                word,
                format!(
                    "a constructor runs outside of the `impl` and cannot name `{}`: build the interceptor in a field and \
                     stack `self.field`",
                    parameter.ident
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quote::quote;

    fn parsed(tokens: TokenStream, fields: bool) -> (Vec<Link>, usize) {
        let mut faults = Faults::default();
        let generics = syn::parse_quote!(<D>);
        let links = parse(
            tokens,
            &Place {
                fields,
                generics: &generics,
            },
            &mut faults,
        );
        (links, faults.count())
    }

    #[test]
    fn the_three_forms_are_told_apart() {
        let (links, faults) = parsed(quote!(auth::audit, self.state.limiter, limit(5, per = "1s")), true);
        assert_eq!(faults, 0);
        assert!(matches!(&links[..], [Link::Path(_), Link::Field(_), Link::Make(..)]));
        let Link::Make(built, _) = &links[2] else {
            panic!("not a constructor")
        };
        assert_eq!(built.to_string(), "limit (5) . per (\"1s\")");
        let Link::Field(field) = &links[1] else {
            panic!("not a field")
        };
        assert_eq!(quote!(#field).to_string(), "self . state . limiter");
    }

    #[test]
    fn everything_else_is_a_fault_of_its_own() {
        let wrong = [
            quote!(self),
            quote!(&audit),
            quote!(role(self.name)),
            quote!(role::<D>()),
            quote!(limit(per = "1s", 5)),
            quote!("audit"),
            quote!(self.make()),
        ];
        for tokens in wrong {
            let (links, faults) = parsed(tokens.clone(), true);
            assert_eq!((links.len(), faults), (0, 1), "{tokens}");
        }
        assert_eq!(parsed(quote!(self.limiter), false).1, 1);
    }
}

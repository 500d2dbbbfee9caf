//! Questions about types and tokens that several rules ask.
//!
//! Everything here is about spelling: a macro sees no types, so `Streaming` is whatever is spelled so.

use std::collections::BTreeSet;

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident};
use syn::visit::Visit;
use syn::{GenericArgument, Ident, Lifetime, PathArguments, PathSegment, Type, TypeReference};

/// A type without the invisible groups and parentheses around it.
pub(crate) fn peel(ty: &Type) -> &Type {
    match ty {
        Type::Group(group) => peel(&group.elem),
        Type::Paren(paren) => peel(&paren.elem),
        other => other,
    }
}

/// The last path segment of a type: `Result` of `std::io::Result<T>`.
pub(crate) fn last(ty: &Type) -> Option<&PathSegment> {
    match peel(ty) {
        Type::Path(path) => path.path.segments.last(),
        _ => None,
    }
}

/// Whether the last path segment of a type is `name`.
pub(crate) fn is(ty: &Type, name: &str) -> bool {
    last(ty).is_some_and(|segment| segment.ident == name)
}

/// The type arguments of a type's last path segment.
pub(crate) fn arguments(ty: &Type) -> Vec<&Type> {
    match last(ty).map(|segment| &segment.arguments) {
        Some(PathArguments::AngleBracketed(list)) => list
            .args
            .iter()
            .filter_map(|argument| match argument {
                GenericArgument::Type(ty) => Some(ty),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// The target of a reference.
pub(crate) fn reference(ty: &Type) -> Option<&TypeReference> {
    match peel(ty) {
        Type::Reference(reference) => Some(reference),
        _ => None,
    }
}

/// Whether a type is `[u8]`.
pub(crate) fn is_byte_slice(ty: &Type) -> bool {
    matches!(peel(ty), Type::Slice(slice) if is(&slice.elem, "u8"))
}

/// The first type inside `ty`, itself included, that satisfies `wanted`.
pub(crate) fn find(ty: &Type, wanted: impl Fn(&Type) -> bool) -> Option<&Type> {
    struct Finder<'t, F> {
        wanted: F,
        found: Option<&'t Type>,
    }
    impl<'t, F: Fn(&Type) -> bool> Visit<'t> for Finder<'t, F> {
        fn visit_type(&mut self, ty: &'t Type) {
            if self.found.is_none() {
                if (self.wanted)(ty) {
                    self.found = Some(ty);
                } else {
                    syn::visit::visit_type(self, ty);
                }
            }
        }
    }
    let mut finder = Finder { wanted, found: None };
    finder.visit_type(ty);
    finder.found
}

/// The first lifetime written in a type.
pub(crate) fn lifetime(ty: &Type) -> Option<&Lifetime> {
    struct Finder<'t>(Option<&'t Lifetime>);
    impl<'t> Visit<'t> for Finder<'t> {
        fn visit_lifetime(&mut self, lifetime: &'t Lifetime) {
            self.0.get_or_insert(lifetime);
        }
    }
    let mut finder = Finder(None);
    finder.visit_type(ty);
    finder.0
}

/// Whether tokens contain the word `name`, at any depth.
pub(crate) fn mentions(tokens: TokenStream, name: &str) -> bool {
    word(tokens, name).is_some()
}

/// The first occurrence of the word `name` in tokens.
pub(crate) fn word(tokens: TokenStream, name: &str) -> Option<Ident> {
    tokens.into_iter().find_map(|token| match token {
        TokenTree::Ident(ident) => (ident == name).then_some(ident),
        TokenTree::Group(group) => word(group.stream(), name),
        _ => None,
    })
}

/// Tokens as a person would write them, for messages.
pub(crate) fn shown(tokens: impl ToTokens) -> String {
    const TIGHT: &[(&str, &str)] = &[
        (" :: ", "::"),
        (":: ", "::"),
        (" <", "<"),
        ("< ", "<"),
        (" >", ">"),
        ("& ", "&"),
        (" ,", ","),
        (" :", ":"),
        ("' ", "'"),
        (" (", "("),
        ("-> (", "-> ("),
        (" ;", ";"),
    ];
    let mut text = tokens.to_token_stream().to_string().replace("->", "\u{2192}");
    for (loose, tight) in TIGHT {
        text = text.replace(loose, tight);
    }
    text.replace('\u{2192}', "->").replace("->(", "-> (")
}

/// Names for generic parameters that no word of the user's item can clash with.
///
/// Type parameters are not hygienic: `impl<S: Orders>` would capture a user's type `S`.
pub(crate) struct Names {
    used: BTreeSet<String>,
}

impl Names {
    pub(crate) fn of(item: impl ToTokens) -> Self {
        let mut used = BTreeSet::new();
        collect(item.to_token_stream(), &mut used);
        Self { used }
    }

    /// Avoids the words of another item too.
    pub(crate) fn add(&mut self, item: impl ToTokens) {
        collect(item.to_token_stream(), &mut self.used);
    }

    /// `short` if it is free, else a longer name.
    pub(crate) fn fresh(&self, short: &str) -> Ident {
        if self.used.contains(short) {
            format_ident!("__Sinew{short}", span = Span::mixed_site())
        } else {
            Ident::new(short, Span::mixed_site())
        }
    }
}

fn collect(tokens: TokenStream, used: &mut BTreeSet<String>) {
    for token in tokens {
        match token {
            TokenTree::Ident(ident) => {
                used.insert(ident.to_string());
            }
            TokenTree::Group(group) => collect(group.stream(), used),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use syn::parse_quote;

    #[test]
    fn find_looks_inside_types() {
        let ty: Type = parse_quote!(Option<Vec<Streaming<u8>>>);
        assert!(find(&ty, |ty| is(ty, "Streaming")).is_some());
        assert!(find(&ty, |ty| is(ty, "Bytes")).is_none());
    }

    #[test]
    fn types_are_shown_as_written() {
        for text in [
            "Box<dyn std::error::Error + Send + Sync>",
            "Vec<&str>",
            "(u64, Option<[u8; 4]>)",
            "Result<(), E>",
        ] {
            let parsed = syn::parse_str::<Type>(text).map(shown);
            assert_eq!(parsed.ok().as_deref(), Some(text));
        }
        let sig: syn::Signature = parse_quote!(async fn get(&self, id: u64) -> Option<Order>);
        assert_eq!(shown(sig), "async fn get(&self, id: u64) -> Option<Order>");
    }

    #[test]
    fn names_avoid_words_of_the_item() {
        let ty: Type = parse_quote!(Option<(S, T)>);
        let names = Names::of(&ty);
        assert_eq!(names.fresh("S"), "__SinewS");
        assert_eq!(names.fresh("N"), "N");
    }
}

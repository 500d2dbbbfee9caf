//! The one place that spells where generated code finds the runtime.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote_spanned};
use syn::Path;

/// The root of the runtime's paths: `::sinew`, or what `crate = ..` says.
#[derive(Clone, Default)]
pub(crate) struct Root {
    path: Option<Path>,
}

impl Root {
    /// Reads `crate = path` instead of `::sinew`.
    pub(crate) fn at(path: Path) -> Self {
        Self { path: Some(path) }
    }

    /// The path of everything that generated code names, blamed on `span` where it leads to an error.
    pub(crate) fn private(&self, span: Span) -> TokenStream {
        let Some(path) = &self.path else {
            return quote_spanned!(span=> ::sinew::__private);
        };
        let moved = path.to_token_stream().into_iter().map(|mut token| {
            token.set_span(token.span().located_at(span));
            token
        });
        let path: TokenStream = moved.collect();
        quote_spanned!(span=> #path::__private)
    }
}

impl ToTokens for Root {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        tokens.extend(self.private(Span::mixed_site()));
    }
}

//! Attributes as lists of options, and who needs which attribute of a method.
//!
//! Every list has one shape: options separated by commas, each `key`, `key = value` or `key(..)`. What the keys mean is
//! in `options`.

use proc_macro2::{Span, TokenStream};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::{Attribute, Expr, ExprLit, Ident, Lit, LitStr, Meta, Path, Token, parenthesized};

use crate::faults::Faults;

/// One option of a list.
pub(crate) struct Opt {
    pub(crate) key: Ident,
    pub(crate) value: Value,
}

/// What follows the key.
pub(crate) enum Value {
    Flag,
    Is(Box<Expr>),
    List(TokenStream),
}

impl Parse for Opt {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let key = input.call(Ident::parse_any)?;
        let value = if input.peek(Token![=]) {
            input.parse::<Token![=]>()?;
            Value::Is(input.parse()?)
        } else if input.peek(syn::token::Paren) {
            let content;
            parenthesized!(content in input);
            Value::List(content.parse()?)
        } else {
            Value::Flag
        };
        Ok(Self { key, value })
    }
}

impl Opt {
    /// The option stands alone.
    pub(crate) fn flag(&self, faults: &mut Faults) -> Option<Span> {
        if !matches!(self.value, Value::Flag) {
            faults.on(&self.key, format!("`{}` takes no value: write it alone", self.key));
        }
        Some(self.key.span())
    }

    /// The option's value is any expression.
    pub(crate) fn expr(&self, example: &str, faults: &mut Faults) -> Option<&Expr> {
        if let Value::Is(expr) = &self.value {
            return Some(expr);
        }
        faults.on(
            &self.key,
            format!("`{}` needs a value, e.g. `{} = {example}`", self.key, self.key),
        );
        None
    }

    /// The option's value is a string.
    pub(crate) fn text(&self, example: &str, faults: &mut Faults) -> Option<LitStr> {
        match ungrouped(self.expr(example, faults)?) {
            Expr::Lit(ExprLit {
                lit: Lit::Str(text), ..
            }) => Some(text.clone()),
            other => {
                faults.on(
                    other,
                    format!("`{}` takes a string, e.g. `{} = {example}`", self.key, self.key),
                );
                None
            }
        }
    }

    /// The option's value is a whole number from 1.
    pub(crate) fn number(&self, faults: &mut Faults) -> Option<u32> {
        let expr = ungrouped(self.expr("2", faults)?);
        if let Expr::Lit(ExprLit {
            lit: Lit::Int(number), ..
        }) = expr
            && let Ok(number @ 1..) = number.base10_parse::<u32>()
        {
            return Some(number);
        }
        faults.on(
            expr,
            format!("`{}` takes a whole number from 1, e.g. `{} = 2`", self.key, self.key),
        );
        None
    }

    /// The option's value is a path.
    pub(crate) fn path(&self, example: &str, faults: &mut Faults) -> Option<Path> {
        match self.expr(example, faults)? {
            Expr::Path(expr) if expr.qself.is_none() => Some(expr.path.clone()),
            other => {
                faults.on(
                    other,
                    format!("`{}` takes a path, e.g. `{} = {example}`", self.key, self.key),
                );
                None
            }
        }
    }

    /// The option is followed by a list of options.
    pub(crate) fn list(&self, example: &str, faults: &mut Faults) -> Vec<Self> {
        match &self.value {
            Value::List(tokens) if !tokens.is_empty() => parse_list(tokens.clone(), faults),
            _ => {
                faults.on(&self.key, format!("`{}` takes a list, e.g. `{example}`", self.key));
                Vec::new()
            }
        }
    }
}

/// Options of a token list; a syntax error is one fault and an empty list.
pub(crate) fn parse_list(tokens: TokenStream, faults: &mut Faults) -> Vec<Opt> {
    let parsed = Punctuated::<Opt, Token![,]>::parse_terminated.parse2(tokens);
    faults.check(parsed).into_iter().flatten().collect()
}

/// Options of all `#[rpc(..)]` in `attrs`, which are removed.
pub(crate) fn take_rpc(attrs: &mut Vec<Attribute>, faults: &mut Faults) -> Vec<Opt> {
    let mut options = Vec::new();
    for attr in take(attrs, "rpc") {
        match &attr.meta {
            Meta::List(list) if !list.tokens.is_empty() => {
                options.extend(parse_list(list.tokens.clone(), faults));
            }
            _ => faults.on(
                &attr,
                "`#[rpc]` without options does nothing: write e.g. `#[rpc(idempotent)]`, or remove it",
            ),
        }
    }
    options
}

/// Removes and returns the attributes whose last path segment is `name`.
pub(crate) fn take(attrs: &mut Vec<Attribute>, name: &str) -> Vec<Attribute> {
    attrs.extract_if(.., |attr| is(attr, name)).collect()
}

/// Whether the last segment of an attribute's path is `name`, so that `#[sinew::service]` is one too.
pub(crate) fn is(attr: &Attribute, name: &str) -> bool {
    attr.path().segments.last().is_some_and(|segment| segment.ident == name)
}

/// Reports options that stand twice; `repeatable` ones may.
pub(crate) fn refuse_duplicates(options: &[Opt], repeatable: &[&str], faults: &mut Faults) {
    for (index, option) in options.iter().enumerate() {
        let earlier = options[..index].iter().find(|earlier| earlier.key == option.key);
        if let Some(earlier) = earlier
            && !repeatable.iter().any(|key| option.key == key)
        {
            faults.between(
                &earlier.key,
                &option.key,
                format!("`{}` is declared at both ends of this: keep one of the two", option.key),
            );
        }
    }
}

/// The attributes of a method, sorted by who needs them.
#[derive(Default)]
pub(crate) struct Attrs {
    /// `#[cfg]`, for every item that is generated from the method.
    pub(crate) cfg: Vec<Attribute>,
    /// `#[doc]`, `#[deprecated]`, `#[must_use]`, for what the user calls.
    pub(crate) shown: Vec<Attribute>,
    /// The rest, for the trait's method only.
    pub(crate) other: Vec<Attribute>,
}

impl Attrs {
    pub(crate) fn sort(attrs: Vec<Attribute>) -> Self {
        let mut sorted = Self::default();
        for attr in attrs {
            if is(&attr, "cfg") || (is(&attr, "cfg_attr") && names(&attr, "cfg")) {
                sorted.cfg.push(attr);
            } else if ["doc", "deprecated", "must_use", "cfg_attr"].iter().any(|name| is(&attr, name)) {
                sorted.shown.push(attr);
            } else {
                sorted.other.push(attr);
            }
        }
        sorted
    }

    /// The first line of the documentation.
    pub(crate) fn first_doc_line(&self) -> Option<String> {
        self.shown.iter().find_map(|attr| match &attr.meta {
            Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
                Expr::Lit(ExprLit {
                    lit: Lit::Str(text), ..
                }) => text.value().lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned),
                _ => None,
            },
            _ => None,
        })
    }

    pub(crate) fn is_deprecated(&self) -> bool {
        self.shown.iter().any(|attr| is(attr, "deprecated"))
    }
}

/// Whether an attribute's arguments contain the word `name` anywhere.
pub(crate) fn names(attr: &Attribute, name: &str) -> bool {
    matches!(&attr.meta, Meta::List(list) if crate::syntax::mentions(list.tokens.clone(), name))
}

/// Refuses `#[cfg_attr(.., rpc(..))]` and its like: inside a trait or impl it reaches the macro unevaluated.
pub(crate) fn refuse_late(attrs: &mut Vec<Attribute>, faults: &mut Faults) {
    attrs.retain(|attr| {
        let late = ["rpc", "interceptor"].into_iter().find(|word| is(attr, "cfg_attr") && names(attr, word));
        if let Some(word) = late {
            faults.on(
                attr,
                format!(
                    "`cfg_attr` around `{word}` is evaluated too late here: write `#[cfg(..)]` on two versions of the \
                     method, or put `{word}` where no condition is needed"
                ),
            );
        }
        late.is_none()
    });
}

/// Refuses `#[async_trait]`, which rewrites the methods behind the macro's back.
pub(crate) fn refuse_async_trait(attrs: &mut Vec<Attribute>, faults: &mut Faults) {
    for attr in take(attrs, "async_trait") {
        faults.on(&attr, ASYNC_TRAIT);
    }
}

pub(crate) const ASYNC_TRAIT: &str = "remove `#[async_trait]`: sinew uses native `async fn`, without a box per call";

/// The expression itself, where `macro_rules!` passed it on inside an invisible group.
fn ungrouped(mut expr: &Expr) -> &Expr {
    while let Expr::Group(group) = expr {
        expr = &group.expr;
    }
    expr
}

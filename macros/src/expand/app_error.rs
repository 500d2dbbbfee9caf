//! `#[derive(AppError)]`: a code per variant, and the way into a `Status`.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::{Attribute, Data, DeriveInput, Expr, Fields, Ident, Variant};

use crate::attr::{Opt, refuse_duplicates, take_rpc};
use crate::faults::{Faults, nearest};
use crate::paths::Root;
use crate::syntax;

/// Codes of a `Status`, without `Ok`, which no error is.
const CODES: &[&str] = &[
    "Aborted",
    "AlreadyExists",
    "Cancelled",
    "DataLoss",
    "DeadlineExceeded",
    "FailedPrecondition",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "ResourceExhausted",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unknown",
];
const KEYS: &[&str] = &["code", "retry", "status"];

/// What `#[rpc(..)]` says about a variant, or about a struct.
struct Rule {
    code: Ident,
    never_retry: bool,
    /// The variant holds a `Status` and travels as that.
    is_status: bool,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            code: Ident::new("Unknown", Span::mixed_site()),
            never_retry: false,
            is_status: false,
        }
    }
}

/// Expands the derive; after a fault the impls remain, with defaults in the place of what is wrong.
pub(crate) fn app_error(input: &DeriveInput, faults: &mut Faults) -> TokenStream {
    let mut attrs = input.attrs.clone();
    let options = take_rpc(&mut attrs, faults);
    refuse_duplicates(&options, &[], faults);
    let mut root = Root::default();
    for option in options.iter().filter(|option| option.key == "crate") {
        root = option.path("::sinew", faults).map(Root::at).unwrap_or_default();
    }
    let options: Vec<&Opt> = options.iter().filter(|option| option.key != "crate").collect();
    let variants = match &input.data {
        Data::Enum(data) => {
            if let Some(option) = options.first() {
                faults.on(&option.key, format!("`{}` goes on a variant of the enum", option.key));
            }
            data.variants.iter().map(|variant| read_variant(variant, faults)).collect()
        }
        Data::Struct(_) => vec![(quote_spanned!(Span::mixed_site()=> Self), read_struct(&options, faults))],
        Data::Union(data) => {
            faults.on(
                data.union_token,
                "`AppError` goes on an enum, or on a struct: a union cannot be serialized",
            );
            return TokenStream::new();
        }
    };
    impls(input, &root, &variants)
}

fn read_struct(options: &[&Opt], faults: &mut Faults) -> Rule {
    let mut rule = Rule::default();
    for option in options {
        if option.key == "status" {
            faults.on(
                &option.key,
                "`status` goes on a variant of an enum: return `Status` itself instead of this struct",
            );
        } else {
            rule.set(option, faults);
        }
    }
    rule
}

fn read_variant(variant: &Variant, faults: &mut Faults) -> (TokenStream, Rule) {
    let mut attrs: Vec<Attribute> = variant.attrs.clone();
    let options = take_rpc(&mut attrs, faults);
    refuse_duplicates(&options, &[], faults);
    let mut rule = Rule::default();
    for option in &options {
        rule.set(option, faults);
    }
    if let Some(option) = options.iter().find(|option| option.key == "status") {
        check_status(variant, option, &options, &mut rule, faults);
    }
    let ident = &variant.ident;
    (quote_spanned!(Span::mixed_site()=> Self::#ident), rule)
}

/// A `status` variant is `Rpc(Status)` and says nothing else.
fn check_status(variant: &Variant, option: &Opt, options: &[Opt], rule: &mut Rule, faults: &mut Faults) {
    let holds_status = match &variant.fields {
        Fields::Unnamed(fields) => {
            fields.unnamed.len() == 1 && fields.unnamed.iter().all(|field| syntax::is(&field.ty, "Status"))
        }
        _ => false,
    };
    if !holds_status {
        rule.is_status = false;
        faults.on(
            &option.key,
            format!(
                "a `status` variant holds one `Status`: write `{}(#[from] Status)`",
                variant.ident
            ),
        );
    } else if let Some(other) = options.iter().find(|other| other.key != "status") {
        faults.on(
            &other.key,
            format!("the `Status` inside decides: remove `{}`", other.key),
        );
    }
}

impl Rule {
    fn set(&mut self, option: &Opt, faults: &mut Faults) {
        match option.key.to_string().as_str() {
            "code" => self.code = code(option, faults).unwrap_or_else(|| self.code.clone()),
            "retry" => self.never_retry = retry(option, faults),
            "status" => self.is_status = option.flag(faults).is_some(),
            _ => faults.unknown("`#[rpc]` option", &option.key, KEYS),
        }
    }
}

fn code(option: &Opt, faults: &mut Faults) -> Option<Ident> {
    let expr = option.expr("NotFound", faults)?;
    let Some(ident) = (match expr {
        Expr::Path(path) => path.path.segments.last().map(|segment| &segment.ident),
        _ => None,
    }) else {
        faults.on(expr, "`code` takes the name of a code, e.g. `code = NotFound`");
        return None;
    };
    let text = ident.to_string();
    if CODES.contains(&text.as_str()) {
        return Some(ident.clone());
    }
    let hint = match nearest(&text, CODES) {
        _ if text == "Ok" => "; an error is never `Ok`:".to_owned(),
        Some(guess) => format!("; did you mean `{guess}`?"),
        None => ";".to_owned(),
    };
    faults.on(
        ident,
        format!("unknown code `{text}`{hint} expected: {}", CODES.join(", ")),
    );
    None
}

fn retry(option: &Opt, faults: &mut Faults) -> bool {
    match option.expr("never", faults) {
        Some(Expr::Path(path)) if path.path.is_ident("never") => true,
        Some(other) => {
            faults.on(
                other,
                "`retry` takes `never`; otherwise the code and the caller's policy decide",
            );
            false
        }
        None => false,
    }
}

/// `variants` are paths (`Self::NotFound`, or `Self` of a struct) with their rules.
fn impls(input: &DeriveInput, root: &Root, variants: &[(TokenStream, Rule)]) -> TokenStream {
    let at = Span::mixed_site();
    let ident = &input.ident;
    let (generics, types, bounds) = input.generics.split_for_impl();
    let bounds = if input.generics.type_params().next().is_some() {
        let predicates = bounds.map(|clause| &clause.predicates).into_iter().flatten();
        quote_spanned!(at=> where #(#predicates,)* Self: #root::Wire + ::core::fmt::Display)
    } else {
        quote!(#bounds)
    };
    let (code, into_status) = (code_fn(root, variants), into_status_fn(root, ident, variants));
    let from_where = from_where(input, root);
    let located = root.private(ident.span());
    let on_client = quote_spanned!(ident.span()=> #located::CallError<Self>);
    let encode = encode(root);
    quote_spanned! {at=>
        const _: () = {
            #encode
            #[automatically_derived]
            impl #generics #root::AppError for #ident #types #bounds {
                type OnClient = #on_client;
                #code
                #into_status
            }
            #[automatically_derived]
            impl #generics ::core::convert::From<#ident #types> for #root::Status #from_where {
                fn from(error: #ident #types) -> Self {
                    #root::AppError::into_status(error)
                }
            }
        };
    }
}

/// What turns the error into bytes, if it can be.
///
/// An error that cannot travel is reported once, at `OnClient`; the method of the trait, which is left when the inherent
/// one does not apply, is not reported a second time.
fn encode(root: &Root) -> TokenStream {
    quote_spanned! {Span::mixed_site()=>
        const fn __sinew_shown<T: ::core::fmt::Display>() {}
        struct __SinewEncode<'a, T>(&'a T);
        impl<T: #root::Wire + ::core::fmt::Display> __SinewEncode<'_, T> {
            fn status(self, code: #root::Code, retry: ::core::option::Option<bool>) -> #root::Status {
                #root::app_status(code, retry, self.0)
            }
        }
        trait __SinewUnencodable: ::core::marker::Sized {
            fn status(self, _: #root::Code, _: ::core::option::Option<bool>) -> #root::Status {
                ::core::unreachable!()
            }
        }
        impl<T> __SinewUnencodable for __SinewEncode<'_, T> {}
    }
}

/// The bounds of `From<E> for Status`, where `Self` is not the error.
fn from_where(input: &DeriveInput, root: &Root) -> TokenStream {
    let at = Span::mixed_site();
    let ident = &input.ident;
    let (_, types, bounds) = input.generics.split_for_impl();
    if input.generics.type_params().next().is_none() {
        return quote!(#bounds);
    }
    let predicates = bounds.map(|clause| &clause.predicates).into_iter().flatten();
    quote_spanned!(at=> where #(#predicates,)* #ident #types: #root::Wire + ::core::fmt::Display)
}

fn code_fn(root: &Root, variants: &[(TokenStream, Rule)]) -> TokenStream {
    let at = Span::mixed_site();
    let arms = variants.iter().map(|(path, rule)| {
        let code = &rule.code;
        if rule.is_status {
            quote_spanned!(at=> #path { 0: ref __sinew_status } => __sinew_status.code(),)
        } else {
            quote_spanned!(at=> #path { .. } => #root::Code::#code,)
        }
    });
    quote_spanned! {at=>
        fn code(&self) -> #root::Code {
            match *self { #(#arms)* }
        }
    }
}

fn into_status_fn(root: &Root, ident: &Ident, variants: &[(TokenStream, Rule)]) -> TokenStream {
    let at = Span::mixed_site();
    let statuses = variants
        .iter()
        .filter(|(_, rule)| rule.is_status)
        .map(|(path, _)| quote_spanned!(at=> #path { 0: __sinew_status } => __sinew_status,));
    let never: Vec<_> = variants
        .iter()
        .filter(|(_, rule)| rule.never_retry && !rule.is_status)
        .map(|(path, _)| path)
        .collect();
    let retry = if never.is_empty() {
        quote_spanned!(at=> ::core::option::Option::None)
    } else {
        quote_spanned! {at=>
            match __sinew_error {
                #(#never { .. })|* => ::core::option::Option::Some(false),
                _ => ::core::option::Option::None,
            }
        }
    };
    let app = variants.iter().any(|(_, rule)| !rule.is_status).then(|| {
        let shown = quote_spanned!(ident.span()=> __sinew_shown::<Self>(););
        quote_spanned! {at=>
            __sinew_error => {
                #shown
                let __sinew_code = #root::AppError::code(&__sinew_error);
                let __sinew_retry = #retry;
                __SinewEncode(&__sinew_error).status(__sinew_code, __sinew_retry)
            }
        }
    });
    quote_spanned! {at=>
        fn into_status(self) -> #root::Status {
            match self {
                #(#statuses)*
                #app
            }
        }
    }
}

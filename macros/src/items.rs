//! Decides by the item what an attribute means there.
//!
//! Attributes expand from the top. `#[service]` sees an `#[interceptor(..)]` below it as tokens; one above it runs
//! first and puts itself back below, so that both orders mean the same.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote};
use syn::parse::Parser;
use syn::{Attribute, Item, ItemFn, TraitItemFn};

use crate::ast::Service;
use crate::attr;
use crate::faults::Faults;
use crate::options::{ServiceOptions, impl_root};
use crate::paths::Root;
use crate::{expand, links, validate};

/// `#[service(..)]`.
pub(crate) fn service(args: TokenStream, item: TokenStream) -> TokenStream {
    const PLACE: &str = "`#[service]` goes on a trait, or on an `impl Orders for ..` to stack interceptors there";
    let mut faults = Faults::default();
    let tokens = match syn::parse2::<Item>(item.clone()) {
        Ok(Item::Trait(item)) => {
            let options = ServiceOptions::parse(args, &mut faults);
            let mut service = Service::read(item, options, &mut faults);
            validate::validate(&mut service, &mut faults);
            expand::service(&service)
        }
        Ok(Item::Impl(item)) => {
            let root = impl_root(args, &mut faults);
            expand::handler(item, &root, &mut faults)
        }
        Ok(other) => {
            faults.on(keyword(&other), PLACE);
            item
        }
        Err(error) => return error.to_compile_error(),
    };
    joined(faults, tokens)
}

/// `#[interceptor]` and `#[interceptor(..)]`.
pub(crate) fn interceptor(args: TokenStream, item: TokenStream) -> TokenStream {
    let mut faults = Faults::default();
    let tokens = match syn::parse2::<Item>(item.clone()) {
        Ok(Item::Trait(mut item)) => {
            stack(&args, &mut item.attrs, "trait", &mut faults);
            item.into_token_stream()
        }
        Ok(Item::Impl(mut item)) => {
            stack(&args, &mut item.attrs, "impl", &mut faults);
            item.into_token_stream()
        }
        Ok(Item::Fn(item)) => on_fn(&args, &item, &mut faults),
        Ok(Item::Verbatim(_)) if syn::parse2::<TraitItemFn>(item.clone()).is_ok() => {
            faults.at(Span::call_site(), METHOD);
            item
        }
        Ok(other) => {
            faults.on(
                keyword(&other),
                "`#[interceptor]` goes on an `async fn`, a trait, an impl, or a method of those",
            );
            item
        }
        Err(error) => return error.to_compile_error(),
    };
    joined(faults, tokens)
}

const METHOD: &str =
    "nothing would run this interceptor: it needs `#[sinew::service]` on the trait or impl around this method";

/// `#[derive(AppError)]`.
pub(crate) fn app_error(input: TokenStream) -> TokenStream {
    let mut faults = Faults::default();
    let Some(input) = faults.check(syn::parse2(input)) else {
        return faults.into_tokens();
    };
    let tokens = expand::app_error(&input, &mut faults);
    joined(faults, tokens)
}

/// On a function: a definition, or a list in the wrong place.
fn on_fn(args: &TokenStream, item: &ItemFn, faults: &mut Faults) -> TokenStream {
    if item.sig.receiver().is_some() {
        faults.at(Span::call_site(), METHOD);
        return item.into_token_stream();
    }
    let root = match definition_root(args) {
        Some(root) => root,
        None => {
            faults.on(
                args,
                "a list stacks interceptors on a service; to define one by this function write `#[interceptor]` without a list",
            );
            Root::default()
        }
    };
    expand::definition(item, &root, faults)
}

/// A definition takes no arguments but `crate = path`.
fn definition_root(args: &TokenStream) -> Option<Root> {
    if args.is_empty() {
        return Some(Root::default());
    }
    let mut quiet = Faults::default();
    match &attr::parse_list(args.clone(), &mut quiet)[..] {
        [option] if option.key == "crate" => option.path("::sinew", &mut quiet).map(Root::at),
        _ => None,
    }
}

/// Puts the list below `#[service]`, together with the lists that stand between them.
fn stack(args: &TokenStream, attrs: &mut Vec<Attribute>, what: &str, faults: &mut Faults) {
    if args.is_empty() {
        faults.at(Span::call_site(), links::EMPTY);
        return;
    }
    let Some(service) = attrs.iter().position(|attr| attr::is(attr, "service")) else {
        faults.at(
            Span::call_site(),
            format!("nothing would run these interceptors: the {what} needs `#[sinew::service]` too"),
        );
        return;
    };
    let mut above: Vec<Attribute> = attrs.drain(..service).collect();
    let between = attr::take(&mut above, "interceptor");
    let this = Attribute::parse_outer.parse2(quote!(#[interceptor(#args)]));
    let moved = faults.check(this).into_iter().flatten().chain(between);
    let service = attrs.remove(0);
    let below = std::mem::take(attrs);
    attrs.extend(above.into_iter().chain([service]).chain(moved).chain(below));
}

/// The token that says what an item is.
fn keyword(item: &Item) -> TokenStream {
    match item {
        Item::Struct(item) => item.struct_token.to_token_stream(),
        Item::Enum(item) => item.enum_token.to_token_stream(),
        Item::Union(item) => item.union_token.to_token_stream(),
        Item::Fn(item) => item.sig.fn_token.to_token_stream(),
        Item::Mod(item) => item.mod_token.to_token_stream(),
        Item::Type(item) => item.type_token.to_token_stream(),
        Item::Const(item) => item.const_token.to_token_stream(),
        Item::Static(item) => item.static_token.to_token_stream(),
        other => other.to_token_stream(),
    }
}

fn joined(faults: Faults, tokens: TokenStream) -> TokenStream {
    let mut all = faults.into_tokens();
    all.extend(tokens);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts of all `compile_error!` in `tokens`, in order.
    fn errors(tokens: &TokenStream) -> Vec<String> {
        let text = tokens.to_string();
        text.split("compile_error")
            .skip(1)
            .map(|rest| rest.split('"').nth(1).unwrap_or_default().to_owned())
            .collect()
    }

    #[test]
    fn every_mistake_of_a_trait_is_reported_and_its_items_stay() {
        let tokens = service(
            quote!(encodin = "compact"),
            quote! {
                pub trait Orders {
                    async fn get(&mut self, id: u64) -> u64;
                    #[rpc(timeout = "2 apples")]
                    async fn read(&self, _: u64) -> u64;
                    async fn fine(&self) -> u64;
                }
            },
        );
        let errors = errors(&tokens);
        assert_eq!(errors.len(), 4, "{errors:#?}");
        for word in ["did you mean `encoding`", "take `&self`", "invalid duration", "a name"] {
            assert!(errors.iter().any(|error| error.contains(word)), "{word}: {errors:#?}");
        }
        let text = tokens.to_string();
        for item in ["trait Orders", "struct OrdersClient", "fn fine", "fn get"] {
            assert!(text.contains(item), "{item} is missing");
        }
    }

    #[test]
    fn a_documented_trait_says_how_to_get_an_object() {
        let plain = quote!(
            /// Orders.
            pub trait Orders {
                async fn get(&self) -> u64;
            }
        );
        let text = service(TokenStream::new(), plain.clone()).to_string();
        assert!(
            text.contains("write `#[service(dyn)]` and use `Arc<dyn DynOrders>`"),
            "{text}"
        );
        let text = service(quote!(dyn), plain).to_string();
        assert!(text.contains("use `Arc<dyn DynOrders>`"), "{text}");
        let undocumented = quote!(
            pub trait Orders {
                async fn get(&self) -> u64;
            }
        );
        let text = service(TokenStream::new(), undocumented).to_string();
        assert!(!text.contains("does not exist"), "{text}");
    }
}

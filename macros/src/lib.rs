//! The macros of `sinew`: a small compiler that parses, validates and expands.
//!
//! Use them through the crate `sinew`, which re-exports and documents them. Rules are in `validate`, reported
//! together; what is emitted is in `expand`, one file per item.

mod ast;
mod attr;
mod duration;
mod expand;
mod faults;
mod ids;
mod items;
mod links;
mod options;
mod paths;
mod syntax;
mod validate;

use proc_macro::TokenStream;

/// Makes a trait a service, or stacks interceptors on an implementation of one.
///
/// On a trait: `name = "shop.Orders"`, `encoding = "named"` or `"compact"`, `transparent`, `dyn`, `mock`,
/// `crate = path`. On an impl: `crate = path`.
#[proc_macro_attribute]
pub fn service(args: TokenStream, item: TokenStream) -> TokenStream {
    items::service(args.into(), item.into()).into()
}

/// On an `async fn`: defines an interceptor. With a list, on a service or a method of one: stacks interceptors,
/// outermost first.
///
/// A list item is a path (`audit`), a field (`self.limiter`), or a constructor with chained setters
/// (`rate_limit(500, per = "1s")`), which runs once per server instance.
///
/// Stacked links nest in one future, without a box each. Some fifteen of them around one method fit the compiler's
/// default `recursion_limit`; a longer chain raises it in the crate that builds the server.
///
/// A defining function takes `cx: &mut Cx, next: impl Next` and returns `Outcome`. Further parameters are its
/// settings, given to a constructor of the same name. In the body those that are `Copy` by their spelling (numbers,
/// `bool`, `char`, `&'static T`, `Duration`) are what they are declared as, and any other is a shared reference.
#[proc_macro_attribute]
pub fn interceptor(args: TokenStream, item: TokenStream) -> TokenStream {
    items::interceptor(args.into(), item.into()).into()
}

/// Maps the variants of an application's error to codes of a `Status`.
///
/// On a variant: `#[rpc(code = NotFound)]` (default `Unknown`), `#[rpc(retry = never)]`, or `#[rpc(status)]` for one
/// that holds a `Status` and travels as it. On the type: `#[rpc(crate = path)]`. Needs `Display`, `Serialize` and
/// `Deserialize`.
#[proc_macro_derive(AppError, attributes(rpc))]
pub fn app_error(input: TokenStream) -> TokenStream {
    items::app_error(input.into()).into()
}

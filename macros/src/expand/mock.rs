//! `XMock`: a handler made of closures, for tests of what calls the service.
//!
//! A method without a closure answers UNIMPLEMENTED through a client, naming itself. A direct call of it returns the
//! same where the error is `Status`, and panics otherwise, since no value of the error could be made up.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote, quote_spanned};

use super::Plan;
use crate::ast::{Arg, ArgKind, Method, Reply, plain_name};
use crate::syntax;

pub(super) fn expand(plan: &Plan<'_>) -> TokenStream {
    let at = plan.at;
    let ident = &plan.service.item.ident;
    let mock = format_ident!("{ident}Mock", span = ident.span());
    let (decl, bounds, contract, vis) = (&plan.decl, &plan.bounds, plan.contract(), &plan.vis);
    let (this, allow, shown) = (plan.companion(&mock), plan.allow(), mock.to_string());
    let doc = format!(
        "A [`{ident}`] made of closures: one setter per method. Through a client, the rest answers UNIMPLEMENTED."
    );
    let calls: Vec<&Method> = plan.service.calls().collect();
    let fields = calls.iter().map(|method| field(plan, method));
    let setters = calls.iter().map(|method| setter(plan, method));
    let methods = calls.iter().map(|method| answer(plan, method, &mock));
    let (cfgs, names): (Vec<_>, Vec<_>) = calls
        .iter()
        .map(|method| {
            let cfg = &method.attrs.cfg;
            (quote!(#(#cfg)*), method.spec())
        })
        .unzip();
    let marker = &plan.marker;
    quote_spanned! {at=>
        #[doc = #doc]
        #allow
        #vis struct #mock<#decl> where #bounds {
            #(#fields,)*
            marker: #marker,
        }
        #allow
        const _: () = {
            impl<#decl> #this where #bounds {
                /// A mock of which every method is unset.
                #[must_use]
                #vis fn new() -> Self {
                    Self { #(#cfgs #names: ::core::option::Option::None,)* marker: ::core::marker::PhantomData }
                }
                #(#setters)*
            }
            #[automatically_derived]
            impl<#decl> ::core::default::Default for #this where #bounds {
                fn default() -> Self {
                    Self::new()
                }
            }
            #[automatically_derived]
            impl<#decl> ::core::clone::Clone for #this where #bounds {
                fn clone(&self) -> Self {
                    Self {
                        #(#cfgs #names: ::core::clone::Clone::clone(&self.#names),)*
                        marker: ::core::marker::PhantomData,
                    }
                }
            }
            #[automatically_derived]
            impl<#decl> ::core::fmt::Debug for #this where #bounds {
                fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                    f.debug_struct(#shown).finish_non_exhaustive()
                }
            }
            impl<#decl> #contract for #this where #bounds {
                #(#methods)*
            }
        };
    }
}

/// What a closure is given: everything but reserved places.
fn params(method: &Method) -> impl Iterator<Item = &Arg> {
    method.args.iter().filter(|arg| !matches!(arg.kind, ArgKind::Reserved))
}

fn boxed(plan: &Plan<'_>, output: &TokenStream) -> TokenStream {
    quote_spanned! {plan.at=>
        ::core::pin::Pin<::std::boxed::Box<dyn ::core::future::Future<Output = #output> + ::core::marker::Send>>
    }
}

fn field(plan: &Plan<'_>, method: &Method) -> TokenStream {
    let at = plan.at;
    let (cfg, name) = (&method.attrs.cfg, method.spec());
    let types = params(method).map(|arg| &arg.ty);
    let future = boxed(plan, &method.output(at));
    quote_spanned! {at=>
        #(#cfg)*
        #name: ::core::option::Option<
            ::std::sync::Arc<dyn ::core::ops::Fn(#(#types),*) -> #future + ::core::marker::Send + ::core::marker::Sync>
        >
    }
}

fn setter(plan: &Plan<'_>, method: &Method) -> TokenStream {
    let (at, vis) = (plan.at, &plan.vis);
    let (cfg, ident, name, output) = (&method.attrs.cfg, &method.sig.ident, method.spec(), method.output(at));
    let types: Vec<_> = params(method).map(|arg| &arg.ty).collect();
    let given: Vec<Ident> = (0..types.len()).map(|index| format_ident!("__sinew_{index}", span = at)).collect();
    let doc = format!("Answers `{ident}` with `answer`; its future may not borrow from the arguments.");
    let (closure, future) = (Ident::new("__SinewClosure", at), Ident::new("__SinewFuture", at));
    quote_spanned! {at=>
        #(#cfg)*
        #[doc = #doc]
        #[must_use]
        #vis fn #ident<#closure, #future>(mut self, answer: #closure) -> Self
        where
            #closure: ::core::ops::Fn(#(#types),*) -> #future + ::core::marker::Send + ::core::marker::Sync + 'static,
            #future: ::core::future::Future<Output = #output> + ::core::marker::Send + 'static,
        {
            self.#name = ::core::option::Option::Some(::std::sync::Arc::new(move |#(#given: #types),*| {
                ::std::boxed::Box::pin(answer(#(#given),*)) as _
            }));
            self
        }
    }
}

/// The method, and the hook that answers for it while it is unset.
fn answer(plan: &Plan<'_>, method: &Method, mock: &Ident) -> TokenStream {
    let (at, p, next) = (plan.at, &plan.p, &plan.next);
    let (cfg, ident, name, output) = (&method.attrs.cfg, &method.sig.ident, method.spec(), method.output(at));
    let args = method.args.iter().map(|arg| arg.param(&arg.ty));
    let given = params(method).map(|arg| &arg.name);
    let message = format!("{mock}: `{ident}` is not set; set it with `.{}(..)`", plain_name(ident));
    let unset = unset(plan, method, &message);
    let hook = method.hook();
    quote_spanned! {at=>
        #(#cfg)*
        async fn #ident(&self, #(#args),*) -> #output {
            let __sinew_answer = match &self.#name {
                ::core::option::Option::Some(__sinew_closure) => __sinew_closure(#(#given),*),
                ::core::option::Option::None => #unset,
            };
            __sinew_answer.await
        }
        #(#cfg)*
        async fn #hook<#next: #p::Next>(
            &self,
            _: &#p::Links,
            __sinew_cx: &mut #p::Cx,
            __sinew_next: #next,
        ) -> #p::Outcome {
            if self.#name.is_none() {
                return ::core::result::Result::Err(#p::Status::unimplemented(#message));
            }
            #p::Next::run(__sinew_next, __sinew_cx).await
        }
    }
}

fn unset(plan: &Plan<'_>, method: &Method, message: &str) -> TokenStream {
    let (at, p) = (plan.at, &plan.p);
    match (&method.reply, method.reply.err()) {
        (Reply::Fallible { .. }, Some(err)) if syntax::is(err, "Status") => quote_spanned! {at=>
            return ::core::result::Result::Err(#p::Status::unimplemented(#message))
        },
        _ => quote_spanned!(at=> ::core::panic!(#message)),
    }
}

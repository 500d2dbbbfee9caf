//! `DynX`: the service behind a trait object, one box per call.
//!
//! Its methods are hidden, or a call on `Arc<dyn DynX>` would be ambiguous where both traits are in sight. The hooks go
//! through as well: interceptors stacked on an impl run behind `Arc<dyn DynX>` too.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote_spanned};
use syn::visit_mut::VisitMut;
use syn::{Lifetime, Type, TypeReference};

use super::{Plan, hidden};
use crate::ast::Method;

pub(super) fn expand(plan: &Plan<'_>) -> TokenStream {
    let at = plan.at;
    let ident = &plan.service.item.ident;
    let object = format_ident!("Dyn{ident}", span = ident.span());
    let erased = format_ident!("__SinewErased{ident}", span = at);
    let around = hook_head(plan, &Ident::new("__dyn_around", at), &erased);
    let (item, next) = (item(plan, &object, &erased, &around), next(plan, &erased));
    let (object, allow) = (object_impl(plan, &object, &erased, &around), plan.allow());
    quote_spanned! {at=>
        #item
        #allow
        const _: () = {
            #next
            #object
        };
    }
}

/// The trait of the object, and the hidden one of what is left of a chain.
fn item(plan: &Plan<'_>, object: &Ident, erased: &Ident, around: &TokenStream) -> TokenStream {
    let (at, p, vis, allow) = (plan.at, &plan.p, &plan.vis, plan.allow());
    let (ident, decl, bounds) = (&plan.service.item.ident, &plan.decl, &plan.bounds);
    let doc = format!("[`{ident}`] behind a trait object: `Arc<dyn {object}>` implements `{ident}`.");
    let declared = plan.service.calls().map(|method| declare(plan, method, erased));
    let future = future(plan, &quote_spanned!(at=> #p::Outcome));
    quote_spanned! {at=>
        #[doc = #doc]
        #allow
        #vis trait #object<#decl>: ::core::marker::Send + ::core::marker::Sync + 'static where #bounds {
            #[doc(hidden)]
            fn __dyn_links(&self) -> #p::Links;
            #[doc(hidden)]
            #around;
            #(#declared)*
        }
        #[doc(hidden)]
        #allow
        #vis trait #erased: ::core::marker::Send {
            fn run<'__sinew>(self: ::std::boxed::Box<Self>, cx: &'__sinew mut #p::Cx) -> #future
            where
                Self: '__sinew;
        }
    }
}

/// What is left of a chain, into an object and out of it.
fn next(plan: &Plan<'_>, erased: &Ident) -> TokenStream {
    let (at, p) = (plan.at, &plan.p);
    let future = future(plan, &quote_spanned!(at=> #p::Outcome));
    quote_spanned! {at=>
        impl<T: #p::Next> #erased for T {
            fn run<'__sinew>(self: ::std::boxed::Box<Self>, cx: &'__sinew mut #p::Cx) -> #future
            where
                Self: '__sinew,
            {
                ::std::boxed::Box::pin(#p::Next::run(*self, cx))
            }
        }
        struct __SinewBoxed<'__sinew>(::std::boxed::Box<dyn #erased + '__sinew>);
        impl #p::Next for __SinewBoxed<'_> {
            async fn run(self, cx: &mut #p::Cx) -> #p::Outcome {
                self.0.run(cx).await
            }
        }
    }
}

/// Every handler is an object, and an object is a handler.
fn object_impl(plan: &Plan<'_>, object: &Ident, erased: &Ident, around: &TokenStream) -> TokenStream {
    let (at, p, handler) = (plan.at, &plan.p, &plan.handler);
    let (decl, bounds, contract, this) = (&plan.decl, &plan.bounds, plan.contract(), plan.companion(object));
    let body = hook_body(plan, &Ident::new("__around", at), handler);
    let implemented = plan.service.calls().map(|method| implement(plan, method, erased));
    let returned = plan.service.calls().map(|method| give_back(plan, method));
    let hook = hook_impl(plan, "__around", "__dyn_around");
    quote_spanned! {at=>
        #[automatically_derived]
        impl<#handler: #contract, #decl> #this for #handler where #bounds {
            fn __dyn_links(&self) -> #p::Links {
                <#handler as #contract>::__links(self)
            }
            #around { #body }
            #(#implemented)*
        }
        #[automatically_derived]
        impl<#decl> #contract for ::std::sync::Arc<dyn #this> where #bounds {
            fn __links(&self) -> #p::Links {
                (**self).__dyn_links()
            }
            #hook
            #(#returned)*
        }
    }
}

/// A boxed future of the call's lifetime.
fn future(plan: &Plan<'_>, output: &TokenStream) -> TokenStream {
    quote_spanned! {plan.at=>
        ::core::pin::Pin<
            ::std::boxed::Box<
                dyn ::core::future::Future<Output = #output> + ::core::marker::Send + '__sinew,
            >,
        >
    }
}

/// Signature of an erased hook.
fn hook_head(plan: &Plan<'_>, name: &Ident, erased: &Ident) -> TokenStream {
    let (at, p) = (plan.at, &plan.p);
    let future = future(plan, &quote_spanned!(at=> #p::Outcome));
    quote_spanned! {at=>
        fn #name<'__sinew>(
            &'__sinew self,
            links: &'__sinew #p::Links,
            cx: &'__sinew mut #p::Cx,
            next: ::std::boxed::Box<dyn #erased + '__sinew>,
        ) -> #future
    }
}

fn hook_body(plan: &Plan<'_>, hook: &Ident, handler: &Ident) -> TokenStream {
    let contract = plan.contract();
    quote_spanned! {plan.at=>
        ::std::boxed::Box::pin(<#handler as #contract>::#hook(self, links, cx, __SinewBoxed(next)))
    }
}

/// A hook of the trait that leads through the object.
fn hook_impl(plan: &Plan<'_>, hook: &str, object_hook: &str) -> TokenStream {
    let (at, p, next) = (plan.at, &plan.p, &plan.next);
    let (hook, object_hook) = (Ident::new(hook, at), Ident::new(object_hook, at));
    quote_spanned! {at=>
        async fn #hook<#next: #p::Next>(&self, links: &#p::Links, cx: &mut #p::Cx, next: #next) -> #p::Outcome {
            (**self).#object_hook(links, cx, ::std::boxed::Box::new(next)).await
        }
    }
}

fn names(method: &Method) -> (Ident, Ident) {
    (
        hidden("__dyn_", &method.sig.ident),
        hidden("__dyn_around_", &method.sig.ident),
    )
}

/// Every elided lifetime of an argument becomes the call's.
struct Named(Span);

impl VisitMut for Named {
    fn visit_type_reference_mut(&mut self, reference: &mut TypeReference) {
        reference.lifetime.get_or_insert_with(|| Lifetime::new("'__sinew", self.0));
        syn::visit_mut::visit_type_reference_mut(self, reference);
    }
}

fn head(plan: &Plan<'_>, method: &Method) -> TokenStream {
    let at = plan.at;
    let (name, _) = names(method);
    let future = future(plan, &method.output(at));
    let params = method.args.iter().map(|arg| {
        let mut ty: Type = arg.ty.clone();
        Named(at).visit_type_mut(&mut ty);
        arg.param(&ty)
    });
    quote_spanned!(at=> fn #name<'__sinew>(&'__sinew self, #(#params),*) -> #future)
}

fn declare(plan: &Plan<'_>, method: &Method, erased: &Ident) -> TokenStream {
    let (at, cfg, head) = (plan.at, &method.attrs.cfg, head(plan, method));
    let around = hook_head(plan, &names(method).1, erased);
    quote_spanned! {at=>
        #(#cfg)*
        #[doc(hidden)]
        #head;
        #(#cfg)*
        #[doc(hidden)]
        #around;
    }
}

fn given(method: &Method) -> impl Iterator<Item = TokenStream> {
    method.args.iter().map(|arg| arg.value())
}

fn implement(plan: &Plan<'_>, method: &Method, erased: &Ident) -> TokenStream {
    let (at, handler, contract) = (plan.at, &plan.handler, plan.contract());
    let (cfg, head, ident, given) = (&method.attrs.cfg, head(plan, method), &method.sig.ident, given(method));
    let around = hook_head(plan, &names(method).1, erased);
    let body = hook_body(plan, &method.hook(), handler);
    quote_spanned! {at=>
        #(#cfg)*
        #head {
            ::std::boxed::Box::pin(<#handler as #contract>::#ident(self, #(#given),*))
        }
        #(#cfg)*
        #around { #body }
    }
}

fn give_back(plan: &Plan<'_>, method: &Method) -> TokenStream {
    let at = plan.at;
    let (cfg, ident, output) = (&method.attrs.cfg, &method.sig.ident, method.output(at));
    let (name, object_hook) = names(method);
    let params = method.args.iter().map(|arg| arg.param(&arg.ty));
    let given = given(method);
    let hook = hook_impl(plan, &method.hook().to_string(), &object_hook.to_string());
    quote_spanned! {at=>
        #(#cfg)*
        async fn #ident(&self, #(#params),*) -> #output {
            (**self).#name(#(#given),*).await
        }
        #(#cfg)*
        #hook
    }
}

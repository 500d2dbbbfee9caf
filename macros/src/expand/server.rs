//! `XServer`: the chain of links, the `match` on the method's id, and per method the decoding and the reply.
//!
//! Order of a call: links of the trait, `__around` (links of the impl), the `match`, links of the trait's method,
//! `__around_<method>` (links of the impl's method), handler. The links around the `match` are compiled once per
//! service, only those inside once per method.

use proc_macro2::{Ident, Literal, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::Type;
use syn::spanned::Spanned;

use super::chain::Makers;
use super::{Plan, hidden, spec};
use crate::ast::{Arg, ArgKind, Method, Reply};

pub(super) fn expand(plan: &Plan<'_>) -> TokenStream {
    let at = plan.at;
    let mut makers = Makers::new(&plan.p);
    let (root, entry) = root(plan, &mut makers);
    let calls: Vec<_> = plan.service.calls().map(|method| call(plan, method, &mut makers)).collect();
    let dispatch = dispatch(plan);
    let (item, public, registered) = (item(plan), public(plan, &makers), registered(plan, &entry));
    let p = &plan.p;
    let (functions, wire, allow) = (makers.functions(), spec::questions(plan), plan.allow());
    quote_spanned! {at=>
        #item
        #allow
        const _: () = {
            #wire
            use #p::{respond as __sinew_respond, respond_infallible as __sinew_respond_infallible};
            #functions
            #public
            #registered
            #root
            #dispatch
            #(#calls)*
        };
    }
}

fn item(plan: &Plan<'_>) -> TokenStream {
    let (at, p, allow) = (plan.at, &plan.p, plan.allow());
    let (vis, server, handler, decl, bounds, marker) = (
        &plan.vis,
        &plan.server,
        &plan.handler,
        &plan.decl,
        &plan.bounds,
        &plan.marker,
    );
    let ident = &plan.service.item.ident;
    let doc = format!("Serves a handler that implements [`{ident}`].");
    let more = format!(
        "Interceptors stacked by attribute run when a call comes through here, `{}::local` included; a direct call of \
         the handler's method runs the method alone. A handler behind a trait object needs `#[service(dyn)]` and \
         `Arc<dyn Dyn{ident}>`, because `dyn {ident}` does not compile.",
        plan.client
    );
    quote_spanned! {at=>
        #[doc = #doc]
        ///
        #[doc = #more]
        #allow
        #vis struct #server<#handler, #decl> where #bounds {
            inner: ::std::sync::Arc<(::std::sync::Arc<#handler>, #p::Links, #p::Links)>,
            marker: #marker,
        }
    }
}

/// Generics of everything that has a handler.
fn generics(plan: &Plan<'_>) -> (TokenStream, TokenStream) {
    let (handler, decl, names, contract) = (&plan.handler, &plan.decl, &plan.names, plan.contract());
    (quote!(#handler: #contract, #decl), quote!(#handler, #names))
}

fn public(plan: &Plan<'_>, makers: &Makers<'_>) -> TokenStream {
    let (at, p, vis) = (plan.at, &plan.p, &plan.vis);
    let (server, handler, bounds, decl) = (&plan.server, &plan.handler, &plan.bounds, &plan.decl);
    let (declared, named) = generics(plan);
    let (contract, client, trait_links) = (plan.contract(), plan.companion(&plan.client), makers.filled_or_none());
    let (name, shown) = (&plan.service.name, server.to_string());
    quote_spanned! {at=>
        impl<#declared> #server<#named> where #bounds {
            /// The name of the service on the wire.
            #vis const NAME: &'static str = #name;

            /// What is known about each method before any call.
            #vis const METHODS: &'static [#p::MethodSpec] = <#client>::METHODS;

            /// Serves `handler`; constructor expressions of stacked interceptors run now.
            #[must_use]
            #vis fn new(handler: #handler) -> Self {
                Self::from_arc(::std::sync::Arc::new(handler))
            }

            /// Serves a handler that is used elsewhere too.
            #[must_use]
            #vis fn from_arc(handler: ::std::sync::Arc<#handler>) -> Self {
                let impl_links = <#handler as #contract>::__links(&handler);
                let trait_links = #trait_links;
                Self {
                    inner: ::std::sync::Arc::new((handler, impl_links, trait_links)),
                    marker: ::core::marker::PhantomData,
                }
            }
        }
        #[automatically_derived]
        impl<#handler, #decl> ::core::clone::Clone for #server<#named> where #bounds {
            fn clone(&self) -> Self {
                Self { inner: ::std::sync::Arc::clone(&self.inner), marker: ::core::marker::PhantomData }
            }
        }
        #[automatically_derived]
        impl<#handler, #decl> ::core::fmt::Debug for #server<#named> where #bounds {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.debug_struct(#shown).finish_non_exhaustive()
            }
        }
    }
}

fn registered(plan: &Plan<'_>, entry: &Ident) -> TokenStream {
    let (at, p, server, bounds) = (plan.at, &plan.p, &plan.server, &plan.bounds);
    let (declared, named) = generics(plan);
    let types = &plan.names;
    let this = if types.is_empty() {
        quote!(#entry)
    } else {
        quote_spanned!(at=> #entry::<_, #types>)
    };
    quote_spanned! {at=>
        #[automatically_derived]
        impl<#declared> #p::Service for #server<#named> where #bounds {
            fn methods(&self) -> &'static [#p::MethodSpec] {
                Self::METHODS
            }

            fn slot(&self) -> #p::BoxSlot {
                let __sinew_inner = ::std::sync::Arc::clone(&self.inner);
                #p::sharing_slot(__sinew_inner, |__sinew_inner, __sinew_spec, __sinew_cx, __sinew_request| async move {
                    let mut __sinew_cx = __sinew_cx;
                    let __sinew_next = #this {
                        inner: &*__sinew_inner,
                        spec: __sinew_spec,
                        request: __sinew_request,
                        marker: ::core::marker::PhantomData,
                    };
                    let __sinew_outcome = #p::Next::run(__sinew_next, &mut __sinew_cx).await;
                    (__sinew_inner, __sinew_outcome)
                })
            }
        }
    }
}

/// A struct that carries one call, and what it does with it.
///
/// `run` is the body of an `async fn`; [`passing`] is for a step that only names the next one.
fn next(plan: &Plan<'_>, cfg: &TokenStream, name: &Ident, run: &TokenStream) -> TokenStream {
    let (at, p) = (plan.at, &plan.p);
    let run = quote_spanned! {at=>
        async fn run(self, __sinew_cx: &mut #p::Cx) -> #p::Outcome {
            #run
        }
    };
    step(plan, cfg, name, &run)
}

/// A step whose future is that of the next one: every `async` around it would cost the compiler a level of nesting.
fn passing(plan: &Plan<'_>, cfg: &TokenStream, name: &Ident, run: &TokenStream) -> TokenStream {
    let (at, p) = (plan.at, &plan.p);
    let run = quote_spanned! {at=>
        fn run(
            self,
            __sinew_cx: &mut #p::Cx,
        ) -> impl ::core::future::Future<Output = #p::Outcome> + ::core::marker::Send {
            #run
        }
    };
    step(plan, cfg, name, &run)
}

fn step(plan: &Plan<'_>, cfg: &TokenStream, name: &Ident, run: &TokenStream) -> TokenStream {
    let (at, p, handler) = (plan.at, &plan.p, &plan.handler);
    let (bounds, marker) = (&plan.bounds, &plan.marker);
    let (declared, named) = generics(plan);
    quote_spanned! {at=>
        #cfg
        struct #name<'__sinew, #declared> where #bounds {
            inner: &'__sinew (::std::sync::Arc<#handler>, #p::Links, #p::Links),
            spec: &'static #p::MethodSpec,
            request: #p::ServerRequest,
            marker: #marker,
        }
        #cfg
        impl<'__sinew, #declared> #p::Next for #name<'__sinew, #named> where #bounds {
            #run
        }
    }
}

/// An expression that hands the call on to the struct `name`.
fn hand_on(plan: &Plan<'_>, name: &Ident) -> TokenStream {
    quote_spanned! {plan.at=>
        #name { inner: self.inner, spec: self.spec, request: self.request, marker: self.marker }
    }
}

/// A step from the trait's links to a hook of the impl; returns its struct's name for the step before.
fn around(plan: &Plan<'_>, hook: &Ident, next: &Ident) -> TokenStream {
    let (at, handler, contract) = (plan.at, &plan.handler, plan.contract());
    let next = hand_on(plan, next);
    quote_spanned! {at=>
        let __sinew_inner = self.inner;
        let __sinew_next = #next;
        <#handler as #contract>::#hook(&__sinew_inner.0, &__sinew_inner.1, __sinew_cx, __sinew_next)
    }
}

/// The outermost step: links of the trait, then `__around`.
fn root(plan: &Plan<'_>, makers: &mut Makers<'_>) -> (TokenStream, Ident) {
    let at = plan.at;
    let (dispatch, impl_level) = (Ident::new("__SinewDispatch", at), Ident::new("__SinewImpl", at));
    let hook = Ident::new("__around", at);
    let inner = passing(plan, &TokenStream::new(), &impl_level, &around(plan, &hook, &dispatch));
    let links = &plan.service.links;
    if links.is_empty() {
        return (inner, impl_level);
    }
    let outermost = Ident::new("__SinewTrait", at);
    let stored = quote_spanned!(at=> __sinew_inner.2);
    let chain = makers.wrap(links, &[], &stored, hand_on(plan, &impl_level));
    let run = quote_spanned!(at=> let __sinew_inner = self.inner; #chain);
    let outer = next(plan, &TokenStream::new(), &outermost, &run);
    (quote!(#inner #outer), outermost)
}

/// The step that knows which method it is.
fn dispatch(plan: &Plan<'_>) -> TokenStream {
    let (at, p) = (plan.at, &plan.p);
    let arms = plan.service.calls().map(|method| {
        let (cfg, id) = (&method.attrs.cfg, Literal::u64_suffixed(method.id()));
        let next = hand_on(plan, &entry(method));
        quote_spanned!(at=> #(#cfg)* #id => #p::Next::run(#next, __sinew_cx).await,)
    });
    let run = quote_spanned! {at=>
        match self.spec.id() {
            #(#arms)*
            _ => ::core::result::Result::Err(#p::Status::unimplemented(self.spec.path())),
        }
    };
    next(plan, &TokenStream::new(), &Ident::new("__SinewDispatch", at), &run)
}

fn entry(method: &Method) -> Ident {
    let prefix = if method.links.is_empty() {
        "__SinewHook_"
    } else {
        "__SinewLinks_"
    };
    hidden(prefix, &method.sig.ident)
}

/// The steps of one method.
fn call(plan: &Plan<'_>, method: &Method, makers: &mut Makers<'_>) -> TokenStream {
    let (at, attrs) = (plan.at, &method.attrs.cfg);
    let cfg = quote_spanned!(at=> #(#attrs)* #[allow(non_camel_case_types, reason = "derived from the method's name")]);
    let (hook, handle) = (
        hidden("__SinewHook_", &method.sig.ident),
        hidden("__SinewHandle_", &method.sig.ident),
    );
    let mut tokens = next(plan, &cfg, &handle, &run_handler(plan, method));
    tokens.extend(passing(plan, &cfg, &hook, &around(plan, &method.hook(), &handle)));
    if !method.links.is_empty() {
        let stored = quote_spanned!(at=> __sinew_inner.2);
        let chain = makers.wrap(&method.links, attrs, &stored, hand_on(plan, &hook));
        let run = quote_spanned!(at=> let __sinew_inner = self.inner; #chain);
        tokens.extend(next(plan, &cfg, &entry(method), &run));
    }
    tokens
}

/// Decodes the arguments, calls the handler, and makes the reply.
fn run_handler(plan: &Plan<'_>, method: &Method) -> TokenStream {
    let (at, p, handler, contract) = (plan.at, &plan.p, &plan.handler, plan.contract());
    let (asked, asked_reply) = (spec::ask_args(method), spec::ask_reply(plan, method));
    let asked_error = matches!(method.reply, Reply::Fallible { .. }).then(|| spec::ask_error(plan, method));
    let ident = &method.sig.ident;
    let numbered: Vec<(usize, &Arg)> = method.args.iter().enumerate().collect();
    let local = |index: usize| format_ident!("__sinew_arg_{index}", span = at);
    let read: Vec<_> = numbered.iter().filter_map(|(index, arg)| Some((local(*index), read(plan, arg)?))).collect();
    let (locals, values): (Vec<_>, Vec<_>) = read.iter().map(|(local, value)| (local, value)).unzip();
    let given = numbered.iter().map(|(index, arg)| give(plan, arg, &local(*index)));
    let inbound = method.inbound().and_then(|arg| match &arg.kind {
        ArgKind::Inbound(item) => Some(stream(plan, item)),
        _ => None,
    });
    let ignored = inbound.is_none().then(|| quote_spanned!(at=> let _ = __sinew_inbound;));
    let (ok, blame) = (spec::ok(plan, method), spec::reply_span(plan, method));
    let respond = match spec::error(plan, method) {
        None => quote_spanned!(blame=> __sinew_respond_infallible::<#ok>),
        Some(error) => quote_spanned!(blame=> __sinew_respond::<#ok, #error>),
    };
    let decoded = if read.is_empty() {
        quote_spanned!(at=> #p::ArgsReader::new(&__sinew_payload, self.spec)?.finish()?;)
    } else {
        quote_spanned! {at=>
            let (#(#locals,)*) = {
                let mut __sinew_args = #p::ArgsReader::new(&__sinew_payload, self.spec)?;
                #(let #locals = #values;)*
                __sinew_args.finish()?;
                (#(#locals,)*)
            };
        }
    };
    quote_spanned! {at=>
        #asked
        #asked_reply
        #asked_error
        let (__sinew_payload, __sinew_inbound) = #p::ServerRequest::into_parts(self.request);
        #decoded
        #ignored
        #inbound
        #respond(<#handler as #contract>::#ident(&self.inner.0, #(#given),*).await, self.spec)
    }
}

fn stream(plan: &Plan<'_>, item: &Type) -> TokenStream {
    let method = quote_spanned!(item.span()=> streaming::<#item>);
    quote_spanned!(plan.at=> let __sinew_stream = __sinew_inbound.#method();)
}

/// An expression that reads an argument, or nothing for one that is not in the message.
fn read(plan: &Plan<'_>, arg: &Arg) -> Option<TokenStream> {
    let at = plan.at;
    let owned = match &arg.kind {
        ArgKind::Ref(target) => target,
        _ => &arg.ty,
    };
    let span = owned.span();
    Some(match (&arg.kind, &arg.options.default) {
        (ArgKind::Cx | ArgKind::Inbound(_), _) => return None,
        (ArgKind::Reserved, _) => quote_spanned!(at=> __sinew_args.skip()?),
        (ArgKind::Str, None) => quote_spanned!(at=> __sinew_args.next_str()?),
        (ArgKind::Bytes, None) => quote_spanned!(at=> __sinew_args.next_bytes()?),
        (ArgKind::OptStr, None) => quote_spanned!(at=> __sinew_args.next_opt_str()?),
        (ArgKind::OptBytes, None) => quote_spanned!(at=> __sinew_args.next_opt_bytes()?),
        (ArgKind::Str, Some(default)) => {
            let value = default.as_ref().map_or_else(|| quote!(""), |value| quote!(#value));
            quote_spanned!(at=> __sinew_args.next_opt_str()?.unwrap_or(#value))
        }
        (ArgKind::Bytes, Some(default)) => {
            let value = default.as_ref().map_or_else(|| quote!(&[]), |value| quote!(#value));
            quote_spanned!(at=> __sinew_args.next_opt_bytes()?.unwrap_or(#value))
        }
        (ArgKind::OptStr, Some(default)) => {
            let value = default.as_ref().map(|value| quote_spanned!(at=> .or(#value)));
            quote_spanned!(at=> __sinew_args.next_opt_str()? #value)
        }
        (ArgKind::OptBytes, Some(default)) => {
            let value = default.as_ref().map(|value| quote_spanned!(at=> .or(#value)));
            quote_spanned!(at=> __sinew_args.next_opt_bytes()? #value)
        }
        (ArgKind::Owned | ArgKind::Ref(_), None) => {
            let next = quote_spanned!(span=> next::<#owned>);
            quote_spanned!(at=> __sinew_args.#next()?)
        }
        (ArgKind::Owned | ArgKind::Ref(_), Some(default)) => {
            let next = quote_spanned!(span=> next_or::<#owned>);
            let value = default.as_ref().map_or_else(
                || quote_spanned!(span=> ::core::default::Default::default()),
                |value| quote!(#value),
            );
            quote_spanned!(at=> __sinew_args.#next(|| #value)?)
        }
    })
}

/// An argument as the handler takes it.
fn give(plan: &Plan<'_>, arg: &Arg, local: &Ident) -> TokenStream {
    let at = plan.at;
    match &arg.kind {
        ArgKind::Cx => quote_spanned!(at=> &*__sinew_cx),
        ArgKind::Inbound(_) => quote_spanned!(at=> __sinew_stream),
        ArgKind::Ref(_) => quote_spanned!(at=> &#local),
        _ => quote!(#local),
    }
}

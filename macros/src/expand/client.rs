//! `XClient`: one method per RPC, and the trait itself where it is `transparent`.

use proc_macro2::{Literal, TokenStream};
use quote::{quote, quote_spanned};
use syn::Attribute;
use syn::spanned::Spanned;

use super::{Plan, spec};
use crate::ast::{Arg, ArgKind, Method, Reply};
use crate::attr;
use crate::validate::is_taken;

pub(super) fn expand(plan: &Plan<'_>) -> TokenStream {
    let (at, p) = (plan.at, &plan.p);
    let (vis, client, decl, bounds, marker) = (&plan.vis, &plan.client, &plan.decl, &plan.bounds, &plan.marker);
    let allow = plan.allow();
    let this = plan.companion(client);
    let doc = format!(
        "Client of [`{0}`]: one method per RPC, each returning a call that runs when awaited.",
        plan.service.item.ident
    );
    let (docs, deprecated) = carried(plan);
    let name = client.to_string();
    let framework = framework(plan);
    let table = table(plan);
    let calls = plan.service.methods.iter().map(|method| {
        if method.broken {
            stub(plan, method)
        } else {
            call(plan, method)
        }
    });
    let (wire, start) = (spec::questions(plan), start(plan));
    quote_spanned! {at=>
        #[doc = #doc]
        #(#docs)*
        #(#deprecated)*
        #allow
        #vis struct #client<#decl> where #bounds {
            channel: #p::Channel,
            marker: #marker,
        }
        #allow
        const _: () = {
            #wire
            #start
            impl<#decl> #this where #bounds {
                #framework
                #table
                #(#calls)*
            }
            #[automatically_derived]
            impl<#decl> ::core::clone::Clone for #this where #bounds {
                fn clone(&self) -> Self {
                    Self { channel: ::core::clone::Clone::clone(&self.channel), marker: ::core::marker::PhantomData }
                }
            }
            #[automatically_derived]
            impl<#decl> ::core::fmt::Debug for #this where #bounds {
                fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                    f.debug_struct(#name).finish_non_exhaustive()
                }
            }
        };
    }
}

/// What of the trait's attributes concerns whoever uses the client: its documentation, and that it is deprecated.
fn carried<'a>(plan: &Plan<'a>) -> (Vec<TokenStream>, Vec<&'a Attribute>) {
    let attrs = &plan.service.item.attrs;
    let docs = attrs.iter().filter(|attr| attr::is(attr, "doc")).map(|attr| quote!(#attr));
    let mut docs: Vec<TokenStream> = docs.collect();
    if !docs.is_empty() {
        docs.insert(0, quote_spanned!(plan.at=> #[doc = ""]));
    }
    (docs, attrs.iter().filter(|attr| attr::is(attr, "deprecated")).collect())
}

/// What begins a call.
///
/// A type that cannot travel is reported by a question; the methods of the trait, which are left when the inherent ones
/// do not apply, keep it from being reported again.
fn start(plan: &Plan<'_>) -> TokenStream {
    let (at, p) = (plan.at, &plan.p);
    let parameters = quote_spanned! {at=>
        channel: &#p::Channel, spec: &'static #p::MethodSpec, args: #p::ArgsWriter
    };
    let ignored = [
        quote_spanned!(at=> _: &#p::Channel),
        quote_spanned!(at=> _: &'static #p::MethodSpec),
        quote_spanned!(at=> _: #p::ArgsWriter),
    ];
    quote_spanned! {at=>
        struct __SinewStart<T, E>(::core::marker::PhantomData<fn() -> (T, E)>);
        impl<T: #p::ReplyShape, E: #p::FromStatus> __SinewStart<T, E> {
            fn unary(#parameters) -> #p::Call<T, E> {
                #p::Call::new(channel, spec, args)
            }
            fn streaming<I: #p::Wire>(#parameters, items: #p::Streaming<I>) -> #p::Call<T, E> {
                #p::Call::streaming(channel, spec, args, items)
            }
        }
        trait __SinewStub<T, E> {
            fn unary(#(#ignored,)*) -> #p::Call<T, E> {
                ::core::unreachable!()
            }
            fn streaming<I>(#(#ignored,)* _: #p::Streaming<I>) -> #p::Call<T, E> {
                ::core::unreachable!()
            }
        }
        impl<T, E> __SinewStub<T, E> for __SinewStart<T, E> {}
    }
}

/// What every client has.
fn framework(plan: &Plan<'_>) -> TokenStream {
    let (at, p, vis, server) = (plan.at, &plan.p, &plan.vis, &plan.server);
    let (contract, name) = (plan.contract(), &plan.service.name);
    quote_spanned! {at=>
        /// The name of the service on the wire.
        #vis const NAME: &'static str = #name;

        /// Connects, and waits until the first connection is ready.
        ///
        /// # Errors
        /// The last cause, if none becomes ready within the connect time-out.
        #vis async fn connect(target: &str) -> ::core::result::Result<Self, #p::Status> {
            ::core::result::Result::Ok(Self::from_channel(#p::Channel::connect(target).await?))
        }

        /// A client that connects with its first call.
        ///
        /// # Errors
        /// If `target` cannot be understood; nothing is sent.
        #vis fn lazy(target: &str) -> ::core::result::Result<Self, #p::Status> {
            ::core::result::Result::Ok(Self::from_channel(#p::Channel::lazy(target)?))
        }

        /// A client of a handler in this process: codec and interceptors run, sockets do not.
        ///
        /// The handler runs inside the call, so `spawn` and `blocking` have no effect, and a handler that blocks its
        /// thread blocks its caller.
        #[must_use]
        #vis fn local(handler: impl #contract) -> Self {
            Self::from_channel(#p::Channel::local(#server::new(handler)))
        }

        /// A client that shares a channel with others.
        #[must_use]
        #vis fn from_channel(channel: #p::Channel) -> Self {
            Self { channel, marker: ::core::marker::PhantomData }
        }

        /// The channel that carries the calls.
        #[must_use]
        #vis fn channel(&self) -> &#p::Channel {
            &self.channel
        }
    }
}

/// `METHODS`, and a hidden constant per entry.
fn table(plan: &Plan<'_>) -> TokenStream {
    let (at, p, vis) = (plan.at, &plan.p, &plan.vis);
    let entries = plan.service.calls().map(|method| {
        let (cfg, spec) = (&method.attrs.cfg, method.spec());
        quote_spanned!(at=> #(#cfg)* *Self::#spec)
    });
    let constants = plan.service.calls().map(|method| {
        let (cfg, spec, value) = (&method.attrs.cfg, method.spec(), spec::value(plan, method));
        quote_spanned! {at=>
            #(#cfg)*
            #[doc(hidden)]
            #[allow(non_upper_case_globals, reason = "derived from the method's name")]
            const #spec: &'static #p::MethodSpec = &#value;
        }
    });
    quote_spanned! {at=>
        /// What is known about each method before any call.
        #vis const METHODS: &'static [#p::MethodSpec] = &[#(#entries),*];
        #(#constants)*
    }
}

/// The method that starts a call; the user's identifier leads go-to-definition to the trait.
fn call(plan: &Plan<'_>, method: &Method) -> TokenStream {
    let (at, p, vis) = (plan.at, &plan.p, &plan.vis);
    let (cfg, shown, ident, spec) = (&method.attrs.cfg, docs(plan, method), &method.sig.ident, method.spec());
    let (ok, error) = (spec::ok(plan, method), spec::client_error(plan, method));
    let params = method.args.iter().filter(|arg| arg.is_on_client()).map(|arg| arg.param(&arg.ty));
    let (asked, asked_reply) = (spec::ask_args(method), spec::ask_reply(plan, method));
    let count = Literal::usize_unsuffixed(spec::travelling(method).count());
    let writes = spec::travelling(method).map(|arg| write(plan, arg));
    let mutable = spec::travelling(method).next().map(|_| quote_spanned!(at=> mut));
    let blame = spec::error_span(plan, method);
    let started = match method.inbound().map(|arg| (&arg.name, &arg.kind)) {
        Some((Some(stream), ArgKind::Inbound(item))) => {
            let start = quote_spanned!(blame=> __SinewStart::<#ok, _>::streaming::<#item>);
            quote_spanned!(at=> #start(&self.channel, Self::#spec, __sinew_args, #stream))
        }
        _ => {
            let start = quote_spanned!(blame=> __SinewStart::<#ok, _>::unary);
            quote_spanned!(at=> #start(&self.channel, Self::#spec, __sinew_args))
        }
    };
    let statements = quote_spanned! {at=>
        #asked
        #asked_reply
        let #mutable __sinew_args = #p::ArgsWriter::new(Self::#spec, #count);
        #(#writes)*
        #started
    };
    // The compiler looks at the return type again on behalf of the body, and blames the body's span.
    let span = spec::error_span(plan, method);
    let body = quote_spanned!(span=> { #statements });
    let located = p.private(span);
    let returned = quote_spanned!(span=> #located::Call<#ok, #error>);
    quote_spanned! {at=>
        #(#cfg)*
        #shown
        #vis fn #ident(&self, #(#params),*) -> #returned #body
    }
}

/// The user's documentation; without any, a line that keeps `missing_docs` quiet about generated code.
fn docs(plan: &Plan<'_>, method: &Method) -> TokenStream {
    let shown = &method.attrs.shown;
    let line = format!("Calls `{}`.", method.path);
    let fallback = method.attrs.first_doc_line().is_none().then(|| quote_spanned!(plan.at=> #[doc = #line]));
    quote!(#fallback #(#shown)*)
}

fn write(plan: &Plan<'_>, arg: &Arg) -> Option<TokenStream> {
    let at = plan.at;
    let (name, ty) = (arg.name.as_ref()?, &arg.ty);
    let span = ty.span();
    Some(match &arg.kind {
        ArgKind::Cx | ArgKind::Inbound(_) => return None,
        ArgKind::Str => quote_spanned!(at=> __sinew_args.put_str(#name);),
        ArgKind::Bytes => quote_spanned!(at=> __sinew_args.put_bytes(#name);),
        ArgKind::OptStr => quote_spanned!(at=> __sinew_args.put_opt_str(#name);),
        ArgKind::OptBytes => quote_spanned!(at=> __sinew_args.put_opt_bytes(#name);),
        ArgKind::Ref(target) => {
            let put = quote_spanned!(span=> put_ref::<#target>);
            quote_spanned!(at=> __sinew_args.#put(#name);)
        }
        ArgKind::Owned => {
            let put = quote_spanned!(span=> put::<#ty>);
            quote_spanned!(at=> __sinew_args.#put(#name);)
        }
        ArgKind::Reserved => quote_spanned!(at=> __sinew_args.put_nil();),
    })
}

/// Takes the place of a method with a fault, so that calls of it are no errors of their own.
fn stub(plan: &Plan<'_>, method: &Method) -> TokenStream {
    let (at, p, vis) = (plan.at, &plan.p, &plan.vis);
    let (cfg, ident) = (&method.attrs.cfg, &method.sig.ident);
    if is_taken(ident) {
        return TokenStream::new();
    }
    let params = method
        .args
        .iter()
        .filter(|arg| arg.is_on_client())
        .map(|_| quote_spanned!(at=> _: impl ::core::marker::Sized));
    quote_spanned! {at=>
        #(#cfg)*
        #[doc(hidden)]
        #vis fn #ident<__SinewAny>(&self, #(#params),*) -> #p::Call<__SinewAny, #p::Status> {
            ::core::unreachable!()
        }
    }
}

/// `impl X for XClient`.
pub(super) fn transparent(plan: &Plan<'_>) -> TokenStream {
    let at = plan.at;
    let (decl, bounds) = (&plan.decl, &plan.bounds);
    let (contract, this) = (plan.contract(), plan.companion(&plan.client));
    let allow = plan.allow();
    let absorbs = absorbs(plan);
    let methods = plan.service.calls().map(|method| transparent_method(plan, method));
    quote_spanned! {at=>
        #allow
        const _: () = {
            #absorbs
            #[automatically_derived]
            impl<#decl> #contract for #this where #bounds {
                #(#methods)*
            }
        };
    }
}

/// The bound of a transparent error, worded as advice.
fn absorbs(plan: &Plan<'_>) -> TokenStream {
    let (at, p) = (plan.at, &plan.p);
    quote_spanned! {at=>
        #[diagnostic::on_unimplemented(
            message = "`{Self}` cannot hold a call that failed, which `#[service(transparent)]` needs",
            label = "no `From<Status>`",
            note = "add a variant `#[rpc(status)] Rpc(#[from] Status)` to the error, or return `Status`"
        )]
        trait __SinewAbsorbs: ::core::convert::From<#p::Status> {}
        #[diagnostic::do_not_recommend]
        impl<E: ::core::convert::From<#p::Status>> __SinewAbsorbs for E {}
        const fn __sinew_absorbs<E: __SinewAbsorbs>() {}
    }
}

fn transparent_method(plan: &Plan<'_>, method: &Method) -> TokenStream {
    let (at, p, client) = (plan.at, &plan.p, &plan.client);
    let (cfg, ident, output) = (&method.attrs.cfg, &method.sig.ident, method.output(at));
    let params = method.args.iter().map(|arg| arg.param(&arg.ty));
    let given = method.args.iter().filter(|arg| arg.is_on_client()).map(|arg| &arg.name);
    let within = method.args.iter().find(|arg| matches!(arg.kind, ArgKind::Cx)).map(|arg| {
        let cx = &arg.name;
        quote_spanned!(at=> .within(#cx))
    });
    let (span, error) = match (&method.reply, method.reply.err()) {
        (_, Some(err)) => (err.span(), quote!(#err)),
        (Reply::Fallible { whole, .. }, None) => (
            whole.span(),
            quote_spanned!(whole.span()=> <#whole as #p::Returns>::Err),
        ),
        // A fault of its own; the body is never built.
        (Reply::Plain(_), _) => {
            return quote_spanned!(at=> async fn #ident(&self, #(#params),*) -> #output { ::core::unreachable!() });
        }
    };
    let asked = quote_spanned!(span=> __sinew_absorbs::<#error>(););
    let located = p.private(span);
    let flatten = quote_spanned!(span=> #located::flatten::<_, #error>);
    quote_spanned! {at=>
        #(#cfg)*
        async fn #ident(&self, #(#params),*) -> #output {
            #asked
            #flatten(#client::#ident(self, #(#given),*) #within .await)
        }
    }
}

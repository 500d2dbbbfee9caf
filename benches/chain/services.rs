//! One service behind no, one and five stacked links, run without a client and without a connection.

use std::task::{Context, Poll, Waker};

use sinew::wire::Payload;
use sinew::{Cx, Inbound, MethodSpec, Next, Outcome, ServerRequest, Service, interceptor, service};
use sinew_core::service::BoxSlot;

/// Passes on: what is left is the cost of the link itself.
#[interceptor]
pub(crate) async fn pass(cx: &mut Cx, next: impl Next) -> Outcome {
    next.run(cx).await
}

/// The least that a method can do.
#[service(encoding = "compact")]
pub(crate) trait Least {
    /// A constant.
    async fn call(&self) -> u64;
}

/// No link.
#[derive(Debug)]
pub(crate) struct Bare;

impl Least for Bare {
    async fn call(&self) -> u64 {
        7
    }
}

/// One link.
#[derive(Debug)]
pub(crate) struct One;

#[service]
#[interceptor(pass)]
impl Least for One {
    async fn call(&self) -> u64 {
        7
    }
}

/// Five links, on the implementation and on the method.
#[derive(Debug)]
pub(crate) struct Five;

#[service]
#[interceptor(pass, pass)]
impl Least for Five {
    #[interceptor(pass, pass, pass)]
    async fn call(&self) -> u64 {
        7
    }
}

/// Runs the calls of a service one after the other in one slot, as a connection does.
#[derive(Debug)]
pub(crate) struct Calls {
    slot: BoxSlot,
    spec: &'static MethodSpec,
    cx: Cx,
}

impl Calls {
    /// A slot for the first method of `service`.
    #[must_use]
    pub(crate) fn of(service: &impl Service) -> Self {
        Self {
            slot: service.slot(),
            spec: &service.methods()[0],
            cx: Cx::new(),
        }
    }

    /// One call: arguments are decoded, links and handler run, the reply is encoded.
    ///
    /// # Panics
    /// If the call is not answered within its first poll.
    pub(crate) fn run(&mut self) {
        const NO_ARGUMENTS: [u8; 1] = [0x90];
        let request = ServerRequest::new(Payload::copied(&NO_ARGUMENTS), Inbound::default());
        self.slot.as_mut().start(self.spec, self.cx.clone(), request);
        let outcome = self.slot.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(outcome, Poll::Ready(Ok(_))), "{outcome:?}");
        self.slot.as_mut().clear();
    }
}

//! What a handler tells its test: that it began, and why it ended.

use std::sync::{Arc, Mutex};

use sinew::{CancelCause, Cx};
use tokio::sync::mpsc;

/// What happened to a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// It was polled for the first time.
    Began,
    /// Its future, or its stream, was dropped; the cause is that of its context then.
    Dropped(Option<CancelCause>),
}

/// The handler's end: cheap to clone.
#[derive(Clone)]
pub(crate) struct Probe(mpsc::UnboundedSender<Event>);

/// The test's end.
pub(crate) struct Events(mpsc::UnboundedReceiver<Event>);

/// Reports the end of what it is part of.
pub(crate) struct Guard {
    probe: Probe,
    cx: Cx,
}

/// A probe and what it reports.
pub(crate) fn probe() -> (Probe, Events) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Probe(sender), Events(receiver))
}

impl Probe {
    /// Reports that a handler began; its end is reported when the guard is dropped.
    pub(crate) fn began(&self, cx: &Cx) -> Guard {
        self.report(Event::Began);
        Guard {
            probe: self.clone(),
            cx: cx.clone(),
        }
    }

    fn report(&self, event: Event) {
        // The test may be over.
        let _over = self.0.send(event);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.probe.report(Event::Dropped(self.cx.cancel_cause()));
    }
}

impl Events {
    /// The next thing that happens.
    pub(crate) async fn next(&mut self) -> Event {
        self.0.recv().await.expect("the handler holds the probe")
    }

    /// Whether nothing happened that was not asked for.
    pub(crate) fn is_empty(&mut self) -> bool {
        self.0.try_recv().is_err()
    }
}

/// Steps in the order in which they happened, from whoever holds a clone.
#[derive(Clone, Default)]
pub(crate) struct Trail(Arc<Mutex<Vec<String>>>);

impl Trail {
    /// Notes a step.
    pub(crate) fn mark(&self, step: impl Into<String>) {
        self.0.lock().unwrap().push(step.into());
    }

    /// The steps so far, which are forgotten.
    pub(crate) fn take(&self) -> String {
        std::mem::take(&mut *self.0.lock().unwrap()).join(" ")
    }
}

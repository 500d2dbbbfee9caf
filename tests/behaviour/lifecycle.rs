//! Channels and servers over time: connecting, losing, going idle, draining, ending.

mod age;
mod channel;
mod server;
mod silence;

use sinew::{Cx, Status, Streaming, service};

use crate::support::probe::{Events, Probe, probe};

#[service(name = "lifecycle.Worker")]
pub(crate) trait Worker {
    async fn ping(&self) -> u64;
    /// Waits until the test opens the gate.
    async fn work(&self, cx: &Cx) -> u64;
    /// The same, with an answer of so many bytes.
    async fn large(&self, cx: &Cx, bytes: usize) -> bytes::Bytes;
    /// Waits for ever, unless the server drains and `leaves` is set.
    async fn watch(&self, cx: &Cx, leaves: bool) -> Result<Streaming<u64>, Status>;
}

pub(crate) struct Bench {
    probe: Probe,
    gate: tokio::sync::watch::Receiver<bool>,
}

impl Worker for Bench {
    async fn ping(&self) -> u64 {
        1
    }
    async fn work(&self, cx: &Cx) -> u64 {
        let _guard = self.probe.began(cx);
        let mut gate = self.gate.clone();
        // An error means that the test is over.
        let _over = gate.wait_for(|open| *open).await;
        2
    }
    async fn large(&self, cx: &Cx, bytes: usize) -> bytes::Bytes {
        let _guard = self.probe.began(cx);
        let mut gate = self.gate.clone();
        let _over = gate.wait_for(|open| *open).await;
        vec![7; bytes].into()
    }
    async fn watch(&self, cx: &Cx, leaves: bool) -> Result<Streaming<u64>, Status> {
        let guard = self.probe.began(cx);
        let (sender, items) = Streaming::channel(1);
        let (cx, mut gate) = (cx.clone(), self.gate.clone());
        tokio::spawn(async move {
            let _guard = guard;
            if sender.send(1).await.is_err() {
                return;
            }
            if leaves {
                // A long stream comes to an end in order.
                cx.draining().await;
                assert!(cx.is_draining());
            } else {
                tokio::select! {
                    _ = gate.wait_for(|open| *open) => {}
                    () = sender.closed() => {}
                }
            }
        });
        Ok(items)
    }
}

/// A worker, what it reports, and the gate that its work waits for.
pub(crate) fn worker() -> (WorkerServer<Bench>, Events, tokio::sync::watch::Sender<bool>) {
    let (probe, events) = probe();
    let (open, gate) = tokio::sync::watch::channel(false);
    (WorkerServer::new(Bench { probe, gate }), events, open)
}

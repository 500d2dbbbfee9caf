//! Discovery by a real etcd, which is killed, stopped, wiped and compacted while calls run.
//!
//! Needs the feature `etcd` and an etcd server; ignored by default, and run by `tests/run`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "in a test, a failure is to stop it where it happens"
)]
#![expect(
    clippy::print_stdout,
    reason = "a row without errors tells how many calls it stands for"
)]

#[path = "../support/mod.rs"]
#[expect(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "shared with other binaries, which use the rest"
)]
mod support;

mod cluster;
mod gate;
mod losses;
mod outages;
mod quorum;
mod registry;
mod scale;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use cluster::Cluster;
use sinew::{Channel, Drain, Etcd, Instance, RoundRobin, Server, Serving, Status, service};
use tokio::task::JoinHandle;

/// Tells who answers.
#[service(name = "etcd.Who")]
pub(crate) trait Who {
    async fn name(&self) -> Result<String, Status>;
}

struct Named(String);

impl Who for Named {
    async fn name(&self) -> Result<String, Status> {
        Ok(self.0.clone())
    }
}

/// Where the keys of the service are.
pub(crate) const KEYS: &str = "/test/v1/svc/etcd.Who/";

pub(crate) fn registry(cluster: &Cluster) -> Etcd {
    Etcd::new(cluster.addresses()).unwrap().prefix("/test").unwrap().lease_ttl("2s").unwrap()
}

pub(crate) async fn serve(etcd: &Etcd, name: &str) -> Serving {
    Server::builder()
        .service(WhoServer::new(Named(name.to_owned())))
        .drain(Drain::default().lame_duck("300ms"))
        .bind("127.0.0.1:0")
        .register(etcd.clone())
        .instance(Instance::new().label("of", name))
        .start()
        .await
        .unwrap()
}

/// A channel that finds the service.
pub(crate) fn channel(etcd: &Etcd) -> Channel {
    Channel::builder()
        .balancer(RoundRobin)
        .resolver(etcd.resolver("etcd.Who"))
        .lazy("etcd.Who")
        .unwrap()
}

/// Who answers a dozen of calls.
pub(crate) async fn answering(channel: &Channel) -> Vec<String> {
    let mut names = Vec::new();
    for _ in 0..12 {
        names.push(WhoClient::from_channel(channel.clone()).name().wait_for_ready().await.unwrap());
    }
    names.sort_unstable();
    names.dedup();
    names
}

/// Waits until exactly these answer.
pub(crate) async fn until_answering(channel: &Channel, wanted: &[&str]) {
    let mut last = Vec::new();
    for _ in 0..300 {
        last = answering(channel).await;
        if last == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{last:?} answer, not {wanted:?}");
}

/// Waits until so many instances are registered.
pub(crate) async fn until_registered(cluster: &Cluster, wanted: usize) {
    let mut last = 0;
    for _ in 0..300 {
        last = cluster.count(KEYS).await;
        if last == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{last} are registered, not {wanted}");
}

/// Calls at a steady rate, whether or not the ones before came back.
pub(crate) struct Traffic {
    over: Arc<AtomicBool>,
    task: JoinHandle<(usize, Vec<Status>)>,
}

impl Traffic {
    /// 1,000 calls a second.
    pub(crate) fn start(channel: &Channel) -> Self {
        let over = Arc::<AtomicBool>::default();
        let (channel, until) = (channel.clone(), Arc::clone(&over));
        let task = tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_millis(10));
            let (answered, mut calls) = (Arc::<AtomicUsize>::default(), tokio::task::JoinSet::new());
            let mut failed = Vec::new();
            while !until.load(Ordering::Relaxed) {
                tick.tick().await;
                for _ in 0..10 {
                    let (who, answered) = (WhoClient::from_channel(channel.clone()), Arc::clone(&answered));
                    calls
                        .spawn(async move { who.name().await.map(|_| answered.fetch_add(1, Ordering::Relaxed)).err() });
                }
                while let Some(ended) = calls.try_join_next() {
                    failed.extend(ended.unwrap());
                }
            }
            while let Some(ended) = calls.join_next().await {
                failed.extend(ended.unwrap());
            }
            (answered.load(Ordering::Relaxed), failed)
        });
        Self { over, task }
    }

    /// Ends it; how many calls were answered, and how the others failed.
    pub(crate) async fn end(self) -> (usize, Vec<Status>) {
        self.over.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }

    /// Ends it; no call failed, and there were enough of them for that to mean something.
    pub(crate) async fn without_errors(self, during: &str, seconds: usize) {
        let (answered, failed) = self.end().await;
        println!("{during}: {answered} calls answered, {} failed", failed.len());
        assert!(
            failed.is_empty(),
            "{during}: {} of {answered} failed, first {:?}",
            failed.len(),
            failed[0]
        );
        assert!(
            answered >= 500 * seconds,
            "{during}: only {answered} calls in {seconds} s"
        );
    }
}

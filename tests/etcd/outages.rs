//! etcd dies, is stopped, wiped or compacted, and calls do not notice.

use std::time::Duration;

use super::{serve, until_answering, until_registered};
use crate::support::{bounded, outage};

/// What all of them begin with.
mod under_load {
    use sinew::{Channel, Etcd, Serving};

    use crate::cluster::Cluster;
    use crate::{Traffic, channel, registry, serve, until_answering};

    pub(super) async fn cluster(members: usize) -> (Cluster, Etcd) {
        let cluster = Cluster::start(members, &[]).await;
        let etcd = registry(&cluster);
        (cluster, etcd)
    }

    /// Two servers, and calls to them.
    pub(super) async fn servers(etcd: &Etcd) -> (Serving, Serving, Channel, Traffic) {
        let (one, two) = (serve(etcd, "one").await, serve(etcd, "two").await);
        let channel = channel(etcd);
        until_answering(&channel, &["one", "two"]).await;
        let traffic = Traffic::start(&channel);
        (one, two, channel, traffic)
    }
}

/// An outage of three leases: every key is gone, or about to be, when etcd is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an etcd server"]
async fn etcd_is_killed_and_comes_back() {
    bounded(async {
        let (mut cluster, etcd) = under_load::cluster(1).await;
        let (_one, _two, channel, traffic) = under_load::servers(&etcd).await;
        cluster.kill_all();
        let outage = outage(Duration::from_secs(6));
        tokio::time::sleep(outage).await;
        cluster.restart().await;
        let _three = serve(&etcd, "three").await;
        until_answering(&channel, &["one", "three", "two"]).await;
        until_registered(&cluster, 3).await;
        let seconds = usize::try_from(outage.as_secs()).unwrap();
        traffic.without_errors(&format!("etcd killed for {seconds} s"), seconds).await;
    })
    .await;
}

/// A new store under the old address: its revisions begin anew, and it knows nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an etcd server"]
async fn etcd_is_wiped() {
    bounded(async {
        let (mut cluster, etcd) = under_load::cluster(1).await;
        let (_one, _two, channel, traffic) = under_load::servers(&etcd).await;
        cluster.kill_all();
        cluster.wipe(0);
        cluster.restart().await;
        until_registered(&cluster, 2).await;
        // Whoever comes now is found, so the watch is not one of the old store.
        let _three = serve(&etcd, "three").await;
        until_answering(&channel, &["one", "three", "two"]).await;
        traffic.without_errors("etcd wiped", 2).await;
    })
    .await;
}

/// A member that is stopped keeps its sockets, and says nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an etcd server"]
async fn etcd_is_stopped_and_goes_on() {
    bounded(async {
        let (cluster, etcd) = under_load::cluster(1).await;
        let (_one, _two, channel, traffic) = under_load::servers(&etcd).await;
        cluster.signal(0, "-STOP");
        tokio::time::sleep(Duration::from_secs(10)).await;
        cluster.signal(0, "-CONT");
        until_registered(&cluster, 2).await;
        let _three = serve(&etcd, "three").await;
        until_answering(&channel, &["one", "three", "two"]).await;
        traffic.without_errors("etcd stopped for 10 s", 10).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an etcd server"]
async fn the_leader_of_a_cluster_is_killed() {
    bounded(async {
        let (mut cluster, etcd) = under_load::cluster(3).await;
        let (_one, _two, channel, traffic) = under_load::servers(&etcd).await;
        let leader = cluster.leader().await;
        cluster.kill(leader);
        // Also by those who were connected to the one that is gone.
        let _three = serve(&etcd, "three").await;
        until_answering(&channel, &["one", "three", "two"]).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        cluster.restart().await;
        until_registered(&cluster, 3).await;
        traffic.without_errors("the leader of three killed", 3).await;
    })
    .await;
}

/// While nobody watches, the store changes and forgets how.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an etcd server"]
async fn etcd_compacts_what_was_missed() {
    bounded(async {
        let (mut cluster, etcd) = under_load::cluster(1).await;
        let (_one, two, channel, traffic) = under_load::servers(&etcd).await;
        for round in 0..3 {
            cluster.kill_all();
            cluster.restart().await;
            for change in 0..50 {
                cluster.put("/elsewhere", &change.to_string()).await;
            }
            let answer = cluster.ask(0, "kv/range", r#"{"key":"eA=="}"#).await.unwrap();
            let revision = answer.split("\"revision\":\"").nth(1).unwrap().split('"').next().unwrap();
            let compacted = cluster.ask(0, "kv/compaction", &format!(r#"{{"revision":"{revision}"}}"#)).await.unwrap();
            assert!(compacted.contains("200 OK"), "round {round}: {compacted}");
        }
        let _three = serve(&etcd, "three").await;
        two.shutdown().await;
        until_answering(&channel, &["one", "three"]).await;
        traffic.without_errors("etcd compacted", 2).await;
    })
    .await;
}

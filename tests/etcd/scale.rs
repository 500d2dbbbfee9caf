//! Many instances and many clients, each client a process of its own: a rolling change of all instances reaches all of them, and no call fails.
//!
//! `SINEW_SCALE=instances,clients` says how many (default 60,3; ARCHITECTURE has the figures of 1000,20).

use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sinew::{Channel, Etcd, Publisher, Resolver, Serving};

use super::cluster::Cluster;
use super::{WhoClient, serve, until_registered};
use crate::support::child::{Role, role, say};

/// Instances that are replaced side by side.
const AT_ONCE: usize = 10;

fn etcd(member: &str) -> Etcd {
    Etcd::new([member]).unwrap().prefix("/test").unwrap().lease_ttl("10s").unwrap()
}

/// How many instances, and how many clients.
fn scale() -> (usize, usize) {
    let text = std::env::var("SINEW_SCALE").unwrap_or_else(|_| "60,3".to_owned());
    let (instances, clients) = text.split_once(',').expect("SINEW_SCALE is instances,clients");
    (instances.parse().unwrap(), clients.parse().unwrap())
}

#[expect(
    clippy::disallowed_methods,
    reason = "it is compared with what another process wrote"
)]
fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

async fn heard() -> Option<String> {
    let line = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line.trim().to_owned())
    });
    line.await.unwrap().ok().filter(|line| !line.is_empty())
}

/// All instances, each with a lease and a listener of its own, in one process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a role of the others"]
async fn role_of_all_instances() {
    let Some(argument) = role() else { return };
    let (member, count) = argument.split_once(' ').unwrap();
    let etcd = etcd(member);
    let mut serving: Vec<Serving> = Vec::new();
    for _ in 0..count.parse().unwrap() {
        serving.push(serve(&etcd, "one").await);
    }
    say("serving");
    while let Some(_line) = heard().await {
        let mut replaced = Vec::new();
        while !serving.is_empty() {
            let mut turn = tokio::task::JoinSet::new();
            for old in serving.drain(..AT_ONCE.min(serving.len())) {
                let etcd = etcd.clone();
                turn.spawn(async move {
                    // The new one is there before the old one leaves.
                    let new = serve(&etcd, "one").await;
                    old.shutdown().await;
                    new
                });
            }
            replaced.extend(turn.join_all().await);
        }
        serving = replaced;
        say("rolled");
    }
}

/// One client: calls, and looks at whom it knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a role of the others"]
async fn role_of_a_client() {
    let Some(member) = role() else { return };
    let channel = Channel::builder().resolver(etcd(&member).resolver("etcd.Who")).lazy("etcd.Who").unwrap();
    // The list beside it: of more than 64 endpoints a channel knows a part, and one that is new to it may be old.
    let (publisher, mut lists) = Publisher::channel();
    let resolver = etcd(&member).resolver("etcd.Who");
    tokio::spawn(async move { resolver.watch(publisher).await });
    let who = WhoClient::from_channel(channel.clone());
    who.name().wait_for_ready().await.unwrap();
    say("ready");
    let (mut known, mut listed, mut latest, mut changes) = (HashSet::new(), HashSet::new(), Duration::ZERO, 0);
    let (mut calls, mut failed) = (0, 0);
    let is_over = tokio::spawn(heard());
    let mut is_first = true;
    while !is_over.is_finished() {
        calls += 1;
        failed += usize::from(who.name().await.is_err());
        for endpoint in lists.latest().endpoints() {
            if listed.insert(endpoint.instance().to_owned()) && !is_first {
                let started = Duration::from_millis(endpoint.started_unix_ms());
                latest = latest.max(since_1970().saturating_sub(started));
            }
        }
        for one in channel.snapshot().endpoints {
            changes += usize::from(known.insert(one.endpoint.instance().to_owned()) && !is_first);
        }
        is_first &= listed.is_empty();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let memory = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = memory.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default().trim().to_owned();
    say(&format!("{calls} {failed} {changes} {} {resident}", latest.as_millis()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an etcd server"]
async fn all_instances_are_replaced() {
    let (instances, clients) = scale();
    // Far more than it takes with any number.
    let replaced = tokio::time::timeout(Duration::from_secs(600), async {
        let cluster = Cluster::start(1, &[]).await;
        let member = cluster.addresses().remove(0);
        let argument = format!("{member} {instances}");
        let (mut all, said) = Role::start("scale::role_of_all_instances", &argument).listen().await;
        assert_eq!(said.as_deref(), Some("serving"));
        until_registered(&cluster, instances).await;
        let mut processes = Vec::new();
        for _ in 0..clients {
            let (client, said) = Role::start("scale::role_of_a_client", &member).listen().await;
            assert_eq!(said.as_deref(), Some("ready"));
            processes.push(client);
        }
        all.tell("roll");
        let (_all, said) = all.listen().await;
        assert_eq!(said.as_deref(), Some("rolled"));
        tokio::time::sleep(Duration::from_secs(2)).await;
        println!(
            "{instances} instances replaced, {clients} clients: calls, failed, endpoints of theirs that were new, the longest from a start to the list in ms, memory"
        );
        for mut client in processes {
            client.tell("over");
            let (_client, said) = client.listen().await;
            let said = said.unwrap();
            println!("  {said}");
            let figures: Vec<u128> = said.split(' ').take(4).map(|figure| figure.parse().unwrap()).collect();
            assert!(figures[0] > 50 && figures[1] == 0, "calls and failed: {said}");
            // Of more than 64 endpoints each client knows 20, and each of those was replaced.
            assert!(figures[2] >= instances.min(20) as u128, "{said}");
        }
    });
    replaced.await.expect("the test does not hang");
}

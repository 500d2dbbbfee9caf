//! Many instances and many clients, each client a process of its own: a rolling change of all instances reaches all of them, and no call fails.
//!
//! `SINEW_SCALE=instances,clients` says how many (default 60,3; ARCHITECTURE has the figures of 1000,20).

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sinew::{Channel, Etcd, Publisher, Resolver, Serving};

use super::cluster::Cluster;
use super::{KEYS, WhoClient, serve, until_registered};
use crate::support::child::{Role, role, say};

/// Instances that are replaced side by side.
const AT_ONCE: usize = 10;
/// A client has an instance in its list.
const LISTED: &str = "listed";
/// A client sends an instance nothing any more.
const GONE: &str = "gone";

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
    let (mut called, mut listed) = (HashSet::new(), HashSet::new());
    let mut version = 0;
    let (mut calls, mut failed) = (0, 0);
    let mut seen = Vec::new();
    let is_over = tokio::spawn(heard());
    let mut is_first = true;
    while !is_over.is_finished() {
        calls += 1;
        failed += usize::from(who.name().await.is_err());
        let now = since_1970().as_millis();
        let latest = lists.latest();
        // Looking through all of them takes longer than everything else here.
        if latest.version() != version {
            version = latest.version();
            for endpoint in latest.endpoints() {
                if listed.insert(endpoint.instance().to_owned()) && !is_first {
                    seen.push(format!("{LISTED} {} {now}", endpoint.instance()));
                }
            }
        }
        let calling = channel.snapshot().endpoints.iter().map(|one| one.endpoint.instance().to_owned()).collect();
        for gone in called.difference(&calling) {
            seen.push(format!("{GONE} {gone} {now}"));
        }
        called = calling;
        is_first &= listed.is_empty();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let memory = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = memory.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default().trim().to_owned();
    seen.iter().for_each(|line| say(line));
    say(&format!("{calls} {failed} {resident}"));
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
        let events = Events::follow(&cluster).await;
        all.tell("roll");
        let (_all, said) = all.listen().await;
        assert_eq!(said.as_deref(), Some("rolled"));
        tokio::time::sleep(Duration::from_secs(2)).await;
        println!(
            "{instances} instances replaced; of each client calls, failed, memory; ms from an event in etcd to the list, and to no more calls: median, 99 %, longest"
        );
        for mut client in processes {
            client.tell("over");
            report(client, &events, instances).await;
        }
    });
    replaced.await.expect("the test does not hang");
}

/// Hears what a client has seen, and prints how long after each event that was.
async fn report(mut client: Role, events: &Events, instances: usize) {
    let mut delays: HashMap<&str, Vec<u128>> = HashMap::new();
    let mut gone = 0;
    loop {
        let (still, said) = client.listen().await;
        client = still;
        let said = said.expect("a client says its figures last");
        let [what @ (LISTED | GONE), instance, at] = said.split(' ').collect::<Vec<_>>()[..] else {
            println!("  {said}; {}", summary(&mut delays));
            let figures: Vec<usize> = said.split(' ').take(2).map(|figure| figure.parse().unwrap()).collect();
            assert!(figures[0] > 50 && figures[1] == 0, "calls and failed: {said}");
            // Of more than 64 endpoints each client knows 20, and each of those was replaced.
            assert_eq!(delays[LISTED].len(), instances, "all that are new were listed");
            assert!(gone >= instances.min(20), "who left was called no more");
            return;
        };
        let seen = events.of(instance);
        let kind = if what == LISTED { LISTED } else { GONE };
        gone += usize::from(kind == GONE);
        // One whose key was only put is new, and gave its place among a client's twenty to another.
        if what == LISTED || seen.len() > 1 {
            delays.entry(kind).or_default().push(at.parse::<u128>().unwrap().saturating_sub(seen[0]));
        }
    }
}

fn summary(delays: &mut HashMap<&str, Vec<u128>>) -> String {
    let one = |kind: &str, delays: &mut HashMap<&str, Vec<u128>>| {
        let sorted = delays.get_mut(kind).unwrap();
        sorted.sort_unstable();
        let at = |share: usize| sorted[(sorted.len() - 1) * share / 100];
        format!("{kind} {} {} {}", at(50), at(99), at(100))
    };
    [LISTED, GONE].map(|kind| one(kind, delays)).join(", ")
}

/// What a watcher of etcd that is none of ours has seen: when each instance's key was changed. Of one that is new that is when it came; of one that was there
/// before, when it said that it leaves, and when it was deleted.
struct Events {
    seen: Arc<Mutex<HashMap<String, Vec<u128>>>>,
}

impl Events {
    async fn follow(cluster: &Cluster) -> Self {
        let seen: Arc<Mutex<HashMap<String, Vec<u128>>>> = Arc::default();
        let mut changes = cluster.watch(KEYS).await;
        let into = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Some(keys) = changes.recv().await {
                let now = since_1970().as_millis();
                let mut seen = into.lock().unwrap();
                for key in keys {
                    let instance = key.rsplit('/').next().unwrap().to_owned();
                    seen.entry(instance).or_default().push(now);
                }
            }
        });
        Self { seen }
    }

    fn of(&self, instance: &str) -> Vec<u128> {
        self.seen.lock().unwrap().get(instance).expect("etcd has told of it").clone()
    }
}

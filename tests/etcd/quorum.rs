//! A cluster that is divided, a history that is never long, and a crowd that comes back.

use std::time::Duration;

use sinew::{Channel, Etcd, Server, Serving};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::cluster::Cluster;
use super::gate::Gate;
use super::{KEYS, Named, Traffic, WhoServer, answering, channel, registry, serve, until_answering};
use crate::support::bounded;
use crate::support::child::{Role, released, role, say};

/// Two leases, as they are in these tests.
const TWO_LEASES: Duration = Duration::from_secs(4);

fn etcd(members: impl IntoIterator<Item = String>) -> Etcd {
    Etcd::new(members).unwrap().prefix("/test").unwrap().lease_ttl("2s").unwrap()
}

/// Waits until one member says that so many are registered.
async fn until_registered_by(cluster: &Cluster, member: usize, wanted: usize) {
    let mut last = 0;
    for _ in 0..300 {
        last = cluster.count_by(member, KEYS).await;
        if last == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{last} are registered by what member {member} says, not {wanted}");
}

/// Cuts one of three members off from the others: the one that leads, or another.
async fn minority(leads: bool) {
    let cluster = Cluster::start_divisible(3).await;
    let leader = cluster.leader().await;
    let alone = if leads { leader } else { (leader + 1) % 3 };
    let mut gates = Vec::new();
    for (index, address) in cluster.addresses().into_iter().enumerate() {
        let gate = Gate::in_front_of(address).await;
        // At first there is no other way, so that everybody takes this one and stays there.
        gate.set_open(index == alone);
        gates.push(gate);
    }
    let any = etcd(gates.iter().map(Gate::address));
    let (_one, _two) = (serve(&any, "one").await, serve(&any, "two").await);
    until_registered_by(&cluster, alone, 2).await;
    let channel = channel(&any);
    until_answering(&channel, &["one", "two"]).await;
    gates.iter().for_each(|gate| gate.set_open(true));
    let traffic = Traffic::start(&channel);
    cluster.set_reachable(alone, false);
    let cut = Instant::now();
    let others = (0..3).filter(|&index| index != alone).map(|index| cluster.addresses().remove(index));
    let _three = serve(&etcd(others), "three").await;
    until_answering(&channel, &["one", "three", "two"]).await;
    let found = cut.elapsed();
    // What stands after this time is kept by somebody: the registrars have left the member as well.
    tokio::time::sleep(TWO_LEASES).await;
    until_registered_by(&cluster, (alone + 1) % 3, 3).await;
    let registered = cut.elapsed();
    cluster.set_reachable(alone, true);
    until_registered_by(&cluster, alone, 3).await;
    until_answering(&channel, &["one", "three", "two"]).await;
    let who = if leads { "the leader" } else { "a follower" };
    println!(
        "{who} of three cut off: its client found a new server after {found:.1?}, all were registered by the others after {registered:.1?} at most"
    );
    traffic.without_errors(&format!("{who} of three cut off"), 5).await;
}

/// A member that is cut off from the two others goes on to take connections. The client and the registrars that use it go over to another member: a server that
/// is registered there meanwhile is found, and no call fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an etcd server"]
async fn a_minority_of_the_members_keeps_nobody() {
    bounded(minority(false)).await;
}

/// The same with the member that led until then, and believes for a while that it still does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an etcd server"]
async fn a_leader_without_the_others_keeps_nobody() {
    bounded(minority(true)).await;
}

/// How many instances there are that serve.
const SERVERS: usize = 6;
/// How many there are of which now and then a record is written, and nobody listens.
const GHOSTS: usize = 5;
const CHANGES: usize = 600;
const CHANGE_EVERY: Duration = Duration::from_millis(10);
/// A second of changes.
const COMPACT_EVERY: usize = 100;

/// Records that somebody writes into etcd, a change at a time.
struct Written {
    random: fastrand::Rng,
    /// Where each server is, and how often it was started.
    servers: Vec<(String, usize)>,
    /// Which of the ghosts are listed.
    ghosts: [bool; GHOSTS],
    changes: usize,
}

impl Written {
    /// Servers that are not in etcd yet.
    fn new(servers: &[Serving], seed: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            servers: servers.iter().map(|serving| (serving.target(), 1)).collect(),
            ghosts: [false; GHOSTS],
            changes: 0,
        }
    }

    /// A server has another weight, and now and then another key, as if it were started again; or a ghost comes or goes.
    async fn change(&mut self, cluster: &Cluster) {
        match self.random.usize(..SERVERS + GHOSTS) {
            ghost @ SERVERS.. => self.change_ghost(cluster, ghost - SERVERS).await,
            server if self.random.usize(..8) == 0 => {
                let before = self.key(server);
                self.servers[server].1 += 1;
                self.write(cluster, server).await;
                self.changes += 1;
                cluster.delete_key(&before).await;
            }
            server => self.write(cluster, server).await,
        }
    }

    async fn write(&mut self, cluster: &Cluster, server: usize) {
        // The first one always takes calls.
        let weight = if server == 0 {
            100
        } else {
            [0, 1, 100, 200][self.random.usize(..4)]
        };
        let (address, run) = self.servers[server].clone();
        let record = self.record(&format!("server-{server}"), &address, run, weight);
        cluster.put(&self.key(server), &record).await;
    }

    async fn change_ghost(&mut self, cluster: &Cluster, ghost: usize) {
        let name = format!("ghost-{ghost}");
        let record = self.record(&name, "127.0.0.1:1", 1, 100);
        let is_listed = &mut self.ghosts[ghost];
        *is_listed = !*is_listed;
        match *is_listed {
            true => cluster.put(&format!("{KEYS}{name}"), &record).await,
            false => cluster.delete_key(&format!("{KEYS}{name}")).await,
        }
    }

    fn key(&self, server: usize) -> String {
        format!("{KEYS}server-{server}-{}", self.servers[server].1)
    }

    /// A record with a version that no other has.
    fn record(&mut self, name: &str, address: &str, run: usize, weight: u32) -> String {
        self.changes += 1;
        format!(
            r#"{{"v":1,"addresses":["{address}"],"name":"{name}","instance":"{run}","version":"{0}","weight":{weight},"labels":{{"of":"{0}"}}}}"#,
            self.changes
        )
    }
}

/// Names and versions in order; no version of those that get no calls, since a channel tells nothing but the name of them.
type List = Vec<(String, String)>;

/// What etcd has.
async fn listed(cluster: &Cluster) -> List {
    let field = |record: &str, name: &str| {
        let rest = record.split(&format!("\"{name}\":\"")).nth(1).unwrap();
        rest.split('"').next().unwrap().to_owned()
    };
    let records = cluster.values(KEYS).await;
    let list = records.iter().map(|record| match record.contains(r#""weight":0,"#) {
        true => (field(record, "name"), String::new()),
        false => (field(record, "name"), field(record, "version")),
    });
    let mut list: List = list.collect();
    list.sort_unstable();
    list
}

/// What a channel has.
fn known(channel: &Channel) -> List {
    let snapshot = channel.snapshot();
    let endpoints = snapshot.endpoints.iter().map(|one| &one.endpoint);
    let used = endpoints.map(|endpoint| (endpoint.name().to_owned(), endpoint.version().to_owned()));
    let unused = snapshot.unused.iter().map(|(name, _)| (name.clone(), String::new()));
    let mut list: List = used.chain(unused).collect();
    list.sort_unstable();
    list
}

/// Waits until a channel has exactly this list; two runs of the same name count as two.
async fn until_known(channel: &Channel, wanted: &[(String, String)]) {
    let mut last = (List::new(), 0, 0);
    for _ in 0..300 {
        let list = channel.snapshot().list.unwrap();
        last = (known(channel), list.listed, list.kept);
        if last == (wanted.to_vec(), wanted.len(), 0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{last:?} are known, not {wanted:?}");
}

/// Each second a hundred changes, and all that was before them is forgotten: whoever watches all along, and whoever begins at that moment, has the list that
/// etcd has in the end, each name once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an etcd server"]
async fn compacted_every_second_while_a_hundred_keys_change_each_second() {
    bounded(async {
        let cluster = Cluster::start(1, &[]).await;
        let etcd = registry(&cluster);
        let mut servers = Vec::new();
        for number in 0..SERVERS {
            let named = Named(format!("server-{number}"));
            servers.push(Server::builder().service(WhoServer::new(named)).bind("127.0.0.1:0").start().await.unwrap());
        }
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut written = Written::new(&servers, seed);
        for server in 0..SERVERS {
            written.write(&cluster, server).await;
        }
        let first = channel(&etcd);
        answering(&first).await;
        let (begun, mut later) = (Instant::now(), JoinSet::new());
        let mut tick = tokio::time::interval(CHANGE_EVERY);
        for number in 1..=CHANGES {
            tick.tick().await;
            written.change(&cluster).await;
            if number.is_multiple_of(COMPACT_EVERY) {
                let one = channel(&etcd);
                later.spawn(async move {
                    answering(&one).await;
                    one
                });
                cluster.compact().await;
            }
        }
        let took = begun.elapsed();
        let mut channels = later.join_all().await;
        channels.push(first);
        let wanted = listed(&cluster).await;
        for channel in &channels {
            until_known(channel, &wanted).await;
        }
        println!(
            "{} changes in {took:.1?}, compacted every {COMPACT_EVERY}: {} channels list the {} that etcd does",
            written.changes,
            channels.len(),
            wanted.len()
        );
    })
    .await;
}

/// Where the keys of the crowd are.
const CROWD: &str = "/crowd/";
/// A lease of theirs: with shorter ones, a thousand registrars have nothing to do but renew them.
const CROWD_LEASE: &str = "6s";
/// How long etcd is down.
const OUTAGE: Duration = Duration::from_secs(5);
/// After this time nothing stands any more that nobody has renewed since etcd is back: it gives all leases their whole time again, and some more.
const RENEWED: Duration = Duration::from_secs(8);
/// Far more than it takes.
const BACK: Duration = Duration::from_secs(30);

/// How many registrars come back; `SINEW_REGISTRARS` may say something else.
fn registrars() -> usize {
    std::env::var("SINEW_REGISTRARS").map_or(200, |text| text.parse().expect("SINEW_REGISTRARS is a number"))
}

/// One server, registered so many times: each time by a registrar with a lease, a key and a connection of its own. In a process of its own, which may have as
/// many descriptors as it takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a role of the others"]
async fn role_of_all_registrars() {
    let Some(argument) = role() else { return };
    let (member, count) = argument.split_once(' ').unwrap();
    let count: usize = count.parse().unwrap();
    let mut server = Server::builder().service(WhoServer::new(Named("one".to_owned()))).bind("127.0.0.1:0");
    for number in 0..count {
        // One instance has one key under one prefix.
        let etcd = Etcd::new([member]).unwrap().prefix(format!("{CROWD}{number}")).unwrap();
        server = server.register(etcd.lease_ttl(CROWD_LEASE).unwrap());
    }
    let _serving = server.start().await.unwrap();
    say("serving");
    released().await;
}

/// How many of the crowd are registered, and when.
type Counts = Vec<(Duration, usize)>;

/// Counts each tenth of a second from now on, for `at_least` that long, until all are there.
async fn counted(cluster: &Cluster, all: usize, at_least: Duration) -> Counts {
    let start = Instant::now();
    let mut counts = Counts::new();
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    loop {
        tick.tick().await;
        let count = cluster.count(CROWD).await;
        let at = start.elapsed();
        counts.push((at, count));
        if count == all && at >= at_least {
            return counts;
        }
        assert!(at < BACK, "{count} of {all} are registered");
    }
}

/// When the last one came.
fn complete_after(counts: &[(Duration, usize)], all: usize) -> Duration {
    let last_without = counts.iter().rposition(|&(_, count)| count < all);
    last_without.and_then(|index| counts.get(index + 1)).map_or(Duration::ZERO, |&(at, _)| at)
}

/// The most that came within a second.
fn most_in_a_second(counts: &[(Duration, usize)]) -> usize {
    let came_since = |index: usize| {
        let (begin, before) = counts[index];
        let within = counts[index..].iter().take_while(|(at, _)| *at <= begin + Duration::from_secs(1));
        within.map(|(_, count)| count.saturating_sub(before)).max().unwrap_or_default()
    };
    (0..counts.len()).map(came_since).max().unwrap_or_default()
}

/// etcd is killed for most of a lease. If it comes back with its data, all registrars have to renew their leases in time; if they are lost with it, all have to
/// register again, and do not come all at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an etcd server"]
async fn many_registrars_come_back_after_an_outage() {
    bounded(async {
        let all = registrars();
        let mut cluster = Cluster::start(1, &[]).await;
        let argument = format!("{} {all}", cluster.addresses()[0]);
        let (_role, said) = Role::start("quorum::role_of_all_registrars", &argument).listen().await;
        assert_eq!(said.as_deref(), Some("serving"));
        let counts = counted(&cluster, all, TWO_LEASES).await;
        println!("{all} registrars: all after {:.1?}", complete_after(&counts, all));

        cluster.kill_all();
        tokio::time::sleep(OUTAGE).await;
        cluster.restart().await;
        let counts = counted(&cluster, all, RENEWED).await;
        let fewest = counts.iter().map(|&(_, count)| count).min().unwrap();
        let complete = complete_after(&counts, all);
        println!(
            "{all} registrars, etcd back with its data: {fewest} at the fewest, all after {complete:.1?}, {} % within a second at most",
            most_in_a_second(&counts) * 100 / all
        );

        cluster.kill_all();
        tokio::time::sleep(OUTAGE).await;
        cluster.wipe(0);
        cluster.restart().await;
        let mut counts = counted(&cluster, all, RENEWED).await;
        counts.insert(0, (Duration::ZERO, 0));
        let complete = complete_after(&counts, all);
        println!(
            "{all} registrars, etcd back without: all after {complete:.1?}, {} % within a second at most",
            most_in_a_second(&counts) * 100 / all
        );
    })
    .await;
}

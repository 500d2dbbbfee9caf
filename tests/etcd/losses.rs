//! What vanishes from etcd though it lives, what dies though it is in etcd, and what comes back.

use std::time::Duration;

use sinew::{Channel, Code, ConnectivityState, Etcd, MemRegistry, RetryPolicy, RoundRobin, Server, Serving};

use super::cluster::Cluster;
use super::gate::Gate;
use super::{KEYS, Named, Traffic, WhoClient, WhoServer, answering, channel, registry, serve};
use super::{until_answering, until_registered};
use crate::support::bounded;
use crate::support::child::{Role, released, role, say};

/// A server that is in etcd because somebody wrote it there: nobody writes it again.
async fn written(cluster: &Cluster, name: &str) -> Serving {
    let serving = Server::builder()
        .service(WhoServer::new(Named(name.to_owned())))
        .bind("127.0.0.1:0")
        .register(MemRegistry::new())
        .start()
        .await
        .unwrap();
    let record = format!(r#"{{"v":1,"addresses":["{}"],"name":"{name}"}}"#, serving.target());
    cluster.put(&format!("{KEYS}{name}"), &record).await;
    serving
}

/// Four of five keys vanish one after the other, as leases do that expire: half of the servers are let go at most, no call fails, and those that die then are
/// gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an etcd server"]
async fn more_than_half_of_the_keys_vanish_while_the_servers_serve() {
    bounded(async {
        let cluster = Cluster::start(1, &[]).await;
        let etcd = registry(&cluster);
        let names = ["a", "b", "c", "d", "e"];
        let mut servers = Vec::new();
        for name in names {
            servers.push(written(&cluster, name).await);
        }
        let channel = channel(&etcd);
        until_answering(&channel, &names).await;
        let traffic = Traffic::start(&channel);
        for name in &names[..4] {
            cluster.delete_key(&format!("{KEYS}{name}")).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        until_answering(&channel, &["c", "d", "e"]).await;
        let list = channel.snapshot().list.unwrap();
        assert_eq!((list.listed, list.kept), (1, 2));
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(answering(&channel).await, ["c", "d", "e"]);
        traffic.without_errors("4 of 5 keys vanished", 2).await;
        // Those that were kept die: nothing holds them then, once their time is over.
        servers.drain(2..4).for_each(drop);
        until_answering(&channel, &["e"]).await;
        while channel.snapshot().list.unwrap().kept > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

/// The servers cannot reach etcd for two leases: their keys vanish, all at once. No call notices, and they come back by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an etcd server"]
async fn the_servers_are_cut_off_from_etcd() {
    bounded(async {
        let cluster = Cluster::start(1, &[]).await;
        let gate = Gate::in_front_of(cluster.addresses().remove(0)).await;
        let through = Etcd::new([gate.address()]).unwrap().prefix("/test").unwrap().lease_ttl("2s").unwrap();
        let (_one, _two) = (serve(&through, "one").await, serve(&through, "two").await);
        let channel = channel(&registry(&cluster));
        until_answering(&channel, &["one", "two"]).await;
        let traffic = Traffic::start(&channel);
        gate.set_open(false);
        until_registered(&cluster, 0).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(answering(&channel).await, ["one", "two"]);
        gate.set_open(true);
        until_registered(&cluster, 2).await;
        traffic.without_errors("servers cut off from etcd", 4).await;
    })
    .await;
}

/// The client cannot reach etcd while a server comes: it goes on with what it knows, and finds the new one afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an etcd server"]
async fn the_client_is_cut_off_from_etcd() {
    bounded(async {
        let cluster = Cluster::start(1, &[]).await;
        let etcd = registry(&cluster);
        let (_one, _two) = (serve(&etcd, "one").await, serve(&etcd, "two").await);
        let gate = Gate::in_front_of(cluster.addresses().remove(0)).await;
        let channel = channel(&Etcd::new([gate.address()]).unwrap().prefix("/test").unwrap());
        until_answering(&channel, &["one", "two"]).await;
        let traffic = Traffic::start(&channel);
        gate.set_open(false);
        let _three = serve(&etcd, "three").await;
        until_registered(&cluster, 3).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(answering(&channel).await, ["one", "two"]);
        gate.set_open(true);
        until_answering(&channel, &["one", "three", "two"]).await;
        traffic.without_errors("client cut off from etcd", 3).await;
    })
    .await;
}

/// A store of an earlier day is put back: it has fewer revisions than the client has seen, and knows a server that is gone and not one that is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an etcd server"]
async fn an_older_store_is_put_back() {
    bounded(async {
        let mut cluster = Cluster::start(1, &[]).await;
        let etcd = registry(&cluster);
        let one = serve(&etcd, "one").await;
        until_registered(&cluster, 1).await;
        cluster.kill_all();
        cluster.save(0);
        cluster.restart().await;
        let _two = serve(&etcd, "two").await;
        let channel = channel(&etcd);
        until_answering(&channel, &["one", "two"]).await;
        for change in 0..50 {
            cluster.put("/elsewhere", &change.to_string()).await;
        }
        let traffic = Traffic::start(&channel);
        cluster.kill_all();
        cluster.put_back(0);
        cluster.restart().await;
        until_registered(&cluster, 2).await;
        let _three = serve(&etcd, "three").await;
        until_answering(&channel, &["one", "three", "two"]).await;
        traffic.without_errors("an older store put back", 2).await;
        one.shutdown().await;
        until_answering(&channel, &["three", "two"]).await;
    })
    .await;
}

/// What a server's process does.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a role of the others"]
async fn role_of_a_server() {
    let Some(argument) = role() else { return };
    let (member, name) = argument.split_once(' ').unwrap();
    let etcd = Etcd::new([member]).unwrap().prefix("/test").unwrap().lease_ttl("2s").unwrap();
    let serving = serve(&etcd, name).await;
    say("serving");
    released().await;
    serving.shutdown().await;
}

async fn start(cluster: &Cluster, name: &str) -> Role {
    let argument = format!("{} {name}", cluster.addresses()[0]);
    let (role, said) = Role::start("losses::role_of_a_server", &argument).listen().await;
    assert_eq!(said.as_deref(), Some("serving"));
    role
}

/// A server's process is killed: its clients lose what it had begun, and nothing after that; its key goes with its lease, at most a second later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an etcd server"]
async fn a_server_is_killed() {
    bounded(async {
        let cluster = Cluster::start(1, &[]).await;
        let (mut one, _two) = (start(&cluster, "one").await, start(&cluster, "two").await);
        let channel = channel(&registry(&cluster));
        until_answering(&channel, &["one", "two"]).await;
        let traffic = Traffic::start(&channel);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let killed = tokio::time::Instant::now();
        one.kill();
        until_registered(&cluster, 1).await;
        let listed = killed.elapsed();
        assert!(
            listed <= Duration::from_millis(3_500),
            "listed for {listed:?} after its death"
        );
        let (answered, failed) = traffic.end().await;
        println!(
            "a server killed: {answered} calls answered, {} failed, listed for {listed:.1?}",
            failed.len()
        );
        assert!(
            answered >= 500 && failed.len() <= 10,
            "{} failed, first {:?}",
            failed.len(),
            failed.first()
        );
        assert!(
            failed.iter().all(|status| status.code() == Code::Unavailable),
            "{failed:?}"
        );
        assert_eq!(answering(&channel).await, ["two"]);
    })
    .await;
}

/// A server's process is stopped for two leases, as a pause of its machine would: its key goes, and comes back with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an etcd server"]
async fn a_server_is_stopped_and_goes_on() {
    bounded(async {
        let cluster = Cluster::start(1, &[]).await;
        let (one, _two) = (start(&cluster, "one").await, start(&cluster, "two").await);
        let channel = channel(&registry(&cluster));
        until_answering(&channel, &["one", "two"]).await;
        one.signal("STOP");
        until_registered(&cluster, 1).await;
        one.signal("CONT");
        let back = tokio::time::Instant::now();
        until_registered(&cluster, 2).await;
        until_answering(&channel, &["one", "two"]).await;
        let back = back.elapsed();
        println!("a server stopped: back after {back:.1?}");
        assert!(back <= Duration::from_secs(8) + Duration::from_secs(2), "{back:?}");
    })
    .await;
}

/// A client that starts while etcd is down calls whom it knew the last time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an etcd server"]
async fn a_client_starts_while_etcd_is_down() {
    bounded(async {
        let mut cluster = Cluster::start(1, &[]).await;
        let etcd = registry(&cluster);
        let (_one, _two) = (serve(&etcd, "one").await, serve(&etcd, "two").await);
        let path = std::env::temp_dir().join(format!("sinew-etcd-cache-{}.json", std::process::id()));
        let start = || {
            let builder = Channel::builder().balancer(RoundRobin).endpoint_cache(&path);
            builder.resolver(etcd.resolver("etcd.Who")).lazy("etcd.Who").unwrap()
        };
        until_answering(&start(), &["one", "two"]).await;
        let warm = start();
        until_answering(&warm, &["one", "two"]).await;
        while !std::fs::read_to_string(&path).is_ok_and(|text| text.matches("addresses").count() == 2) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        cluster.kill_all();
        let cold = start();
        assert_eq!(answering(&cold).await, ["one", "two"]);
        assert!(cold.snapshot().list.unwrap().is_stale);
        cluster.restart().await;
        while cold.snapshot().list.unwrap().is_stale {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        std::fs::remove_file(&path).unwrap();
    })
    .await;
}

/// A key says how the service is called; it is followed by every client whose target names etcd.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an etcd server"]
async fn a_key_configures_all_clients() {
    bounded(async {
        let cluster = Cluster::start(1, &[]).await;
        let etcd = registry(&cluster);
        let (_one, _two) = (serve(&etcd, "one").await, serve(&etcd, "two").await);
        until_registered(&cluster, 2).await;
        let key = "/test/v1/config/etcd.Who";
        let routes = |canary: u32| {
            format!(r#"{{"routes": [{{"labels": {{"of": "one"}}, "weight": {canary}}}, {{"weight": 100}}]}}"#)
        };
        cluster.put(key, &routes(0)).await;
        let target = format!("etcd://{}/test/etcd.Who", cluster.addresses()[0]);
        let channel = Channel::builder().balancer(RoundRobin).connect(&target).await.unwrap();
        // From the first call on.
        assert_eq!(answering(&channel).await, ["two"]);
        cluster.put(key, &routes(100)).await;
        until_answering(&channel, &["one", "two"]).await;
        cluster.put(key, &routes(0)).await;
        until_answering(&channel, &["two"]).await;
        cluster.put(key, r#"{"rotes": []}"#).await;
        while channel.snapshot().config_failures.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let failures = channel.snapshot().config_failures;
        assert!(failures[0].contains("did you mean `routes`?"), "{failures:?}");
        assert_eq!(answering(&channel).await, ["two"]);
        cluster.delete_key(key).await;
        until_answering(&channel, &["one", "two"]).await;
        assert_eq!(channel.state(), ConnectivityState::Ready);
        assert!(WhoClient::from_channel(channel.clone()).name().await.is_ok());
    })
    .await;
}

/// The same key limits the calls at every server that follows it. While etcd is down, what it said last holds; a server that starts then has what its code says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an etcd server"]
async fn a_key_limits_the_calls_at_servers() {
    bounded(async {
        let mut cluster = Cluster::start(1, &[]).await;
        let etcd = registry(&cluster);
        let start = async |name: &str| {
            let source = etcd.clone();
            let server = Server::builder().service(WhoServer::new(Named(name.to_owned()))).bind("127.0.0.1:0");
            let serving = server.config_source(move |service| source.config(service)).start().await.unwrap();
            let one_try = Channel::builder().retry(RetryPolicy::NEVER);
            (
                WhoClient::from_channel(one_try.connect(&serving.target()).await.unwrap()),
                serving,
            )
        };
        let is_limited = async |client: &WhoClient| match client.name().await {
            Ok(_) => false,
            Err(status) => {
                assert_eq!(status.policy(), Some("rate_limit"), "{status:?}");
                true
            }
        };
        let key = "/test/v1/config/etcd.Who";
        let none = r#"{"timeout": "2s", "server": {"rate_limit": {"calls": 0}}}"#;
        cluster.put(key, none).await;
        let (one, _first) = start("one").await;
        let (other, second) = start("two").await;
        // From the first call on.
        assert!(is_limited(&one).await && is_limited(&other).await);
        cluster.put(key, r#"{"server": {"rate_limit": {"calls": 1000}}}"#).await;
        while is_limited(&one).await || is_limited(&other).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        cluster.put(key, none).await;
        while !is_limited(&one).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        cluster.kill(0);
        while second.snapshot().config_failures.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let failures = second.snapshot().config_failures;
        assert!(
            failures[0].starts_with(&format!("etcd.Who: {key} cannot be read")),
            "{failures:?}"
        );
        assert!(is_limited(&one).await);
        let (third, late) = start("three").await;
        assert!(!is_limited(&third).await);
        cluster.restart().await;
        while !is_limited(&third).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        cluster.delete_key(key).await;
        while is_limited(&one).await || is_limited(&other).await || is_limited(&third).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(late.snapshot().config_failures.is_empty());
    })
    .await;
}

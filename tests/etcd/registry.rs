//! What stands in etcd, and who finds it.

use std::collections::HashSet;
use std::time::Duration;

use sinew::{Channel, Etcd, Instance, RoundRobin, Server, ServerError};

use super::{
    KEYS, Named, WhoClient, WhoServer, answering, channel, registry, serve, until_answering, until_registered,
};
use crate::cluster::Cluster;
use crate::support::bounded;
use crate::support::certs::Authority;
use crate::support::fixture::unique;

/// Clients that share the endpoints are entered, each under a lease; who is gone is so when its lease is over, and its share goes to the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an etcd server"]
async fn clients_share_the_endpoints_by_their_places() {
    bounded(async {
        let cluster = Cluster::start(1, &[]).await;
        let etcd = registry(&cluster);
        let _servers = (
            serve(&etcd, "a").await,
            serve(&etcd, "b").await,
            serve(&etcd, "c").await,
            serve(&etcd, "d").await,
        );
        until_registered(&cluster, 4).await;
        let client = async || {
            let aperture = etcd.aperture("etcd.Who").size(2);
            let builder =
                Channel::builder().resolver(etcd.resolver("etcd.Who")).balancer(RoundRobin).aperture(aperture);
            builder.connect("etcd.Who").await.unwrap()
        };
        let names = |channel: &Channel| -> HashSet<String> {
            let endpoints = channel.snapshot().endpoints;
            endpoints.iter().map(|one| one.endpoint.labels()["of"].clone()).collect()
        };
        let (one, two) = (client().await, client().await);
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        while (names(&one).len(), names(&two).len()) != (2, 2) || !names(&one).is_disjoint(&names(&two)) {
            tick.tick().await;
        }
        assert_eq!(cluster.count("/test/v1/clients/etcd.Who/").await, 2);
        // They are no endpoints of the service.
        assert_eq!(one.snapshot().list.unwrap().listed, 4);
        assert_eq!(answering(&one).await.len(), 2);
        drop(two);
        while cluster.count("/test/v1/clients/etcd.Who/").await > 1 {
            tick.tick().await;
        }
        let three = client().await;
        while names(&three).len() != 2 || !names(&three).is_disjoint(&names(&one)) {
            tick.tick().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an etcd server"]
async fn instances_are_found_while_they_serve() {
    bounded(async {
        let cluster = Cluster::start(1, &[]).await;
        let etcd = registry(&cluster);
        let one = serve(&etcd, "one").await;
        // By a target, as most write it.
        let target = format!("etcd://{}/test/etcd.Who", cluster.addresses()[0]);
        let found = Channel::builder().connect_timeout("5s").connect(&target).await.unwrap();
        assert_eq!(answering(&found).await, ["one"]);
        let channel = channel(&etcd);
        let two = serve(&etcd, "two").await;
        until_answering(&channel, &["one", "two"]).await;
        // In order, without a failed call.
        let client = WhoClient::from_channel(channel.clone());
        let ending = tokio::spawn(one.shutdown());
        while !ending.is_finished() {
            client.name().await.unwrap();
        }
        until_answering(&channel, &["two"]).await;
        assert_eq!(cluster.count(KEYS).await, 1, "its key is gone with it");
        // Without a word: its lease ends.
        let three = serve(&etcd, "three").await;
        until_answering(&channel, &["three", "two"]).await;
        drop(two);
        until_registered(&cluster, 1).await;
        assert_eq!(answering(&channel).await, ["three"]);
        drop(three);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an etcd server"]
async fn what_is_deleted_by_hand_is_written_again() {
    bounded(async {
        let cluster = Cluster::start(1, &[]).await;
        let etcd = registry(&cluster);
        let _one = serve(&etcd, "one").await;
        let channel = channel(&etcd);
        until_answering(&channel, &["one"]).await;
        let client = WhoClient::from_channel(channel.clone());
        for _ in 0..3 {
            cluster.delete(KEYS).await;
            client.name().await.unwrap();
            until_registered(&cluster, 1).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an etcd server"]
async fn records_that_cannot_be_read_are_left_out() {
    bounded(async {
        let cluster = Cluster::start(1, &[]).await;
        let etcd = registry(&cluster);
        cluster.put(&format!("{KEYS}garbage"), "{").await;
        cluster
            .put(
                &format!("{KEYS}hostile"),
                r#"{"v":1,"addresses":["tcp://192.0.2.1:1?dangerous_plaintext"]}"#,
            )
            .await;
        // Another service whose name begins alike.
        cluster.put("/test/v1/svc/etcd.WhoElse/x", r#"{"v":1,"addresses":["127.0.0.1:1"]}"#).await;
        let _one = serve(&etcd, "one").await;
        let channel = channel(&etcd);
        until_answering(&channel, &["one"]).await;
        cluster.put(&format!("{KEYS}later"), "null").await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(answering(&channel).await, ["one"]);
    })
    .await;
}

/// More keys than one page, changed while they are listed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an etcd server"]
async fn long_lists_are_read_in_pages() {
    bounded(async {
        let cluster = Cluster::start(1, &[]).await;
        for number in 0..1_203 {
            let record = format!(r#"{{"v":1,"addresses":["127.0.0.1:1"],"name":"{number}"}}"#);
            cluster.put(&format!("{KEYS}{number:05}"), &record).await;
        }
        let (publisher, mut lists) = sinew::Publisher::channel();
        let resolver = registry(&cluster).resolver("etcd.Who");
        let watching = tokio::spawn(async move { sinew::Resolver::watch(&resolver, publisher).await });
        while lists.latest().endpoints().len() != 1_203 {
            assert!(lists.changed().await);
        }
        cluster
            .put(
                &format!("{KEYS}99999"),
                r#"{"v":1,"addresses":["127.0.0.1:1"],"name":"last"}"#,
            )
            .await;
        while lists.latest().endpoints().len() != 1_204 {
            assert!(lists.changed().await);
        }
        assert!(lists.latest().failure().is_none());
        watching.abort();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an etcd server"]
async fn users_log_in_and_again_when_their_token_is_over() {
    bounded(async {
        let cluster = Cluster::start(1, &["--auth-token", "simple", "--auth-token-ttl", "2"]).await;
        for (what, body) in [
            ("auth/user/add", r#"{"name":"root","password":"secret"}"#),
            ("auth/user/grant", r#"{"user":"root","role":"root"}"#),
            ("auth/enable", "{}"),
        ] {
            let answer = cluster.ask(0, what, body).await.unwrap();
            assert!(answer.contains("200 OK"), "{what}: {answer}");
        }
        let etcd = registry(&cluster);
        let stranger = Channel::builder().resolver(etcd.resolver("etcd.Who")).connect("etcd.Who").await.unwrap_err();
        assert!(
            stranger.message().contains("no endpoint of etcd.Who is known: etcd at 127.0.0.1"),
            "{stranger}"
        );
        let known = etcd.credentials("root", "secret");
        let one = serve(&known, "one").await;
        let channel = channel(&known);
        until_answering(&channel, &["one"]).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        // Long after its token's end and its lease's: both were renewed.
        let two = serve(&known, "two").await;
        until_answering(&channel, &["one", "two"]).await;
        drop((one, two));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an etcd server"]
async fn etcd_is_spoken_to_in_tls() {
    bounded(async {
        let authority = Authority::new("of etcd");
        let (chain, key) = authority.sign(&["127.0.0.1"]);
        let directory = std::env::temp_dir().join(unique("sinew-etcd-tls"));
        std::fs::create_dir(&directory).unwrap();
        let [chain_file, key_file] = ["chain.pem", "key.pem"].map(|name| directory.join(name).display().to_string());
        std::fs::write(&chain_file, &chain).unwrap();
        std::fs::write(&key_file, &key).unwrap();
        let cluster = Cluster::start(1, &["--cert-file", &chain_file, "--key-file", &key_file]).await;
        let plain = Etcd::new([cluster.tls_address(0)]).unwrap().prefix("/test").unwrap();
        let trusting = plain.clone().tls_roots_pem(authority.pem());
        let _one = serve(&trusting, "one").await;
        until_answering(&channel(&trusting), &["one"]).await;
        // Whoever trusts others, or speaks clear text, is told.
        for stranger in [plain.clone().tls(), plain] {
            let builder = Channel::builder().connect_timeout("5s").resolver(stranger.resolver("etcd.Who"));
            let refused = builder.lazy("etcd.Who").unwrap();
            let error = WhoClient::from_channel(refused).name().await.unwrap_err();
            assert!(
                error.message().contains("no endpoint of etcd.Who is known: etcd at 127.0.0.1"),
                "{error}"
            );
        }
        std::fs::remove_dir_all(&directory).unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_address_that_nobody_else_can_reach_is_not_registered() {
    let elsewhere = Etcd::new(["192.0.2.1"]).unwrap();
    let server = |bind: &str| Server::builder().service(WhoServer::new(Named(String::new()))).bind(bind);
    let error = server("127.0.0.1:0").register(elsewhere.clone()).start().await.unwrap_err();
    assert!(
        matches!(&error, ServerError::Registrar(error) if error.to_string().contains("Instance::advertise")),
        "{error}"
    );
    let secret = elsewhere.clone().credentials("root", "secret");
    let stranger = Channel::builder().resolver(secret.resolver("etcd.Who")).connect("etcd.Who").await.unwrap_err();
    assert!(
        stranger.message().contains("would leave this machine in clear text"),
        "{stranger}"
    );
    let advertised = Instance::new().advertise("tls://192.0.2.7:7000");
    let serving = server("127.0.0.1:0").register(elsewhere).instance(advertised).start().await.unwrap();
    // An etcd that never answers holds up nothing.
    bounded(serving.shutdown()).await;
    let here = Etcd::new(["127.0.0.1:1"]).unwrap();
    let error = server("mem:only-here").register(here).start().await.unwrap_err();
    assert!(
        error.to_string().contains("no address that another process could reach"),
        "{error}"
    );
}

//! Endpoints in DNS, from a server of the test's own.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sinew::{Channel, Server, Serving};
use tokio::net::UdpSocket;

use super::{Named, WhoServer, spread, who};
use crate::support::bounded;

const A: u16 = 1;
const AAAA: u16 = 28;
const SRV: u16 = 33;

/// What is in the zone: by name and type, the time to live and the data of each record.
type Zone = BTreeMap<(String, u16), Vec<(u32, Vec<u8>)>>;

struct Names {
    zone: Arc<Mutex<Zone>>,
    address: SocketAddr,
    asked: Arc<Mutex<usize>>,
    task: tokio::task::JoinHandle<()>,
}

impl Names {
    async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (zone, asked) = (Arc::<Mutex<Zone>>::default(), Arc::<Mutex<usize>>::default());
        let address = socket.local_addr().unwrap();
        let (known, counted) = (Arc::clone(&zone), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            let mut query = [0; 512];
            loop {
                let (length, from) = socket.recv_from(&mut query).await.unwrap();
                *counted.lock().unwrap() += 1;
                let answer = answer(&query[..length], &known.lock().unwrap());
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        Self {
            zone,
            address,
            asked,
            task,
        }
    }

    fn set(&self, name: &str, kind: u16, records: Vec<(u32, Vec<u8>)>) {
        self.zone.lock().unwrap().insert((format!("{name}."), kind), records);
    }

    fn clear(&self) {
        self.zone.lock().unwrap().clear();
    }

    fn asked(&self) -> usize {
        *self.asked.lock().unwrap()
    }
}

/// The answer to a query of one question.
fn answer(query: &[u8], zone: &Zone) -> Vec<u8> {
    let (mut name, mut at) = (String::new(), 12);
    while query[at] != 0 {
        let length = usize::from(query[at]);
        name.push_str(&String::from_utf8_lossy(&query[at + 1..=at + length]).to_lowercase());
        name.push('.');
        at += length + 1;
    }
    let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    let records = zone.get(&(name.clone(), kind)).cloned().unwrap_or_default();
    let is_known = zone.keys().any(|(known, _)| *known == name);
    let failing = records.iter().any(|(_, data)| data == b"SERVFAIL");
    let code = if failing {
        2
    } else if is_known {
        0
    } else {
        3
    };
    let records = if failing { Vec::new() } else { records };
    let count = u16::try_from(records.len()).unwrap();
    let mut answer = vec![query[0], query[1], 0x81, 0x80 | code, 0, 1];
    answer.extend(count.to_be_bytes());
    answer.extend([0; 4]);
    answer.extend(&query[12..at + 5]);
    for (ttl, data) in records {
        answer.extend([0xc0, 12]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1]);
        answer.extend(ttl.to_be_bytes());
        answer.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        answer.extend(data);
    }
    answer
}

fn to(ip: [u8; 4]) -> Vec<u8> {
    Ipv4Addr::from(ip).octets().to_vec()
}

fn srv(priority: u16, weight: u16, port: u16, target: &str) -> Vec<u8> {
    let mut data: Vec<u8> = [priority, weight, port].iter().flat_map(|number| number.to_be_bytes()).collect();
    for label in target.split('.') {
        data.push(u8::try_from(label.len()).unwrap());
        data.extend(label.as_bytes());
    }
    data.push(0);
    data
}

async fn serve(name: &str, address: &str) -> Option<Serving> {
    let service = Named {
        name: name.to_owned(),
        let_go: Arc::default(),
        fails: Arc::default(),
    };
    Server::builder().service(WhoServer::new(service)).bind(address).start().await.ok()
}

fn port(serving: &Serving) -> u16 {
    serving.target().rsplit(':').next().unwrap().parse().unwrap()
}

/// Two servers at one port of two addresses.
async fn two_at_one_port() -> (Serving, Serving, u16) {
    for _ in 0..100 {
        let one = serve("one", "127.0.0.1:0").await.unwrap();
        let port = port(&one);
        if let Some(two) = serve("two", &format!("127.0.0.2:{port}")).await {
            return (one, two, port);
        }
    }
    panic!("no port is free at both addresses");
}

async fn until_called(channel: &Channel, count: usize) {
    bounded(async {
        while spread(channel, 40).await.len() != count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn addresses_of_a_host_are_endpoints_for_as_long_as_dns_has_them() {
    let names = Names::start().await;
    let (_one, _two, port) = two_at_one_port().await;
    // A time to live of zero is five seconds.
    names.set("orders.test", A, vec![(0, to([127, 0, 0, 2])), (0, to([127, 0, 0, 1]))]);
    let target = format!("dns://{}/orders.test:{port}", names.address);
    let builder = Channel::builder().balancer(sinew::RoundRobin);
    let channel = builder.connect(&target).await.unwrap();
    until_called(&channel, 2).await;
    let asked = names.asked();
    assert!(asked <= 8, "{asked} questions for one answer");
    names.set("orders.test", A, vec![(0, to([127, 0, 0, 1]))]);
    until_called(&channel, 1).await;
    // The name is gone, and then nobody answers: the list stands.
    let version = channel.snapshot().list.unwrap().version;
    names.clear();
    bounded(async {
        while channel.snapshot().list.unwrap().failure.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let list = channel.snapshot().list.unwrap();
    assert_eq!(
        (list.version, list.failure.as_deref()),
        (version, Some("orders.test is not in DNS"))
    );
    names.task.abort();
    bounded(async {
        while !channel
            .snapshot()
            .list
            .unwrap()
            .failure
            .is_some_and(|failure| failure.contains("cannot be looked up"))
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(spread(&channel, 10).await.len(), 1);
}

/// Half of an answer is none: what is asked for one family of addresses and not answered is not gone.
#[tokio::test]
async fn a_family_that_cannot_be_asked_takes_nobody_away() {
    let names = Names::start().await;
    let one = serve("one", "127.0.0.1:0").await.unwrap();
    names.set("both.test", A, vec![(0, to([127, 0, 0, 1]))]);
    names.set(
        "both.test",
        AAAA,
        vec![(0, std::net::Ipv6Addr::LOCALHOST.octets().to_vec())],
    );
    let channel = Channel::connect(&format!("dns://{}/both.test:{}", names.address, port(&one))).await.unwrap();
    // The two addresses of one server, of which one is dead.
    let endpoints = channel.snapshot().endpoints;
    assert_eq!(
        endpoints.iter().map(|one| one.endpoint.addresses().len()).collect::<Vec<_>>(),
        [2]
    );
    names.set("both.test", A, vec![(0, b"SERVFAIL".to_vec())]);
    bounded(async {
        while channel.snapshot().list.unwrap().failure.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(channel.snapshot().list.unwrap().version, 1);
    assert_eq!(spread(&channel, 10).await.len(), 1);
}

#[tokio::test]
async fn targets_of_a_service_are_endpoints_with_their_weights() {
    let names = Names::start().await;
    let (one, two) = (
        serve("one", "127.0.0.1:0").await.unwrap(),
        serve("two", "127.0.0.1:0").await.unwrap(),
    );
    let spare = serve("spare", "127.0.0.1:0").await.unwrap();
    names.set(
        "_who._tcp.test",
        SRV,
        vec![
            (60, srv(1, 3, port(&one), "a.test")),
            (60, srv(1, 1, port(&two), "b.test")),
            (60, srv(2, 9, port(&spare), "a.test")),
            (60, srv(1, 9, 9, "nowhere.test")),
            (60, srv(1, 9, 9, "broken.test")),
        ],
    );
    names.set("a.test", A, vec![(60, to([127, 0, 0, 1]))]);
    names.set("broken.test", A, vec![(60, b"SERVFAIL".to_vec())]);
    names.set("b.test", A, vec![(60, to([127, 0, 0, 1]))]);
    let target = format!("dns://{}/_who._tcp.test", names.address);
    let builder = Channel::builder().balancer(sinew::RoundRobin);
    let channel = builder.connect(&target).await.unwrap();
    until_called(&channel, 2).await;
    let seen = spread(&channel, 40).await;
    assert_eq!((seen["one"], seen["two"]), (30, 10));
    // A part of the answer is better than none, and said to be one.
    let failure = channel.snapshot().list.unwrap().failure.unwrap();
    assert!(failure.contains("broken.test cannot be looked up"), "{failure}");
    let listed: Vec<String> = channel.snapshot().endpoints.iter().map(|one| one.endpoint.name().to_owned()).collect();
    assert_eq!(
        listed,
        [format!("a.test:{}", port(&one)), format!("b.test:{}", port(&two))]
    );
}

#[tokio::test]
async fn what_is_wrong_with_a_name_is_told() {
    let names = Names::start().await;
    names.set("empty.test", SRV, Vec::new());
    let channel = Channel::lazy(&format!("dns://{}/empty.test:1", names.address)).unwrap();
    let failed = bounded(who(&channel).name().into_future()).await.unwrap_err();
    assert!(failed.message().contains("empty.test is not in DNS"), "{failed}");
    for (target, told) in [
        ("dns:///orders", "expected dns:///host:port"),
        ("dns://", "expected dns:///host:port"),
        ("dns://ns.test/orders.test:1", "given by its number"),
        ("dns:///mem:x", "expected dns:///host:port"),
    ] {
        let error = Channel::lazy(target).unwrap_err();
        assert!(error.message().contains(told), "{target}: {error}");
    }
}

//! A real etcd: one member or a cluster, on ports that were free a moment ago, killed and stopped for real.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use crate::gate::Gate;
use crate::support::fixture::unique;

/// A cluster; its processes are killed with it.
pub(crate) struct Cluster {
    members: Vec<Member>,
    extra: Vec<String>,
    /// How each member reaches the others; none if they do so directly.
    ways: Vec<Way>,
}

struct Member {
    name: String,
    client_port: u16,
    tls_port: u16,
    peer_port: u16,
    directory: PathBuf,
    process: Option<Child>,
}

/// A member's way to the others: a SOCKS proxy of its own, and behind it a gate to each of them. The addresses that members announce to each other are out of
/// documentation, `192.0.2.1` being the first member's, because no proxy is used for loopback.
struct Way {
    proxy: SocketAddr,
    gates: Vec<Gate>,
    task: JoinHandle<()>,
}

impl Cluster {
    /// Starts a cluster, and waits until it answers.
    pub(crate) async fn start(members: usize, extra: &[&str]) -> Self {
        let mut cluster = Self {
            members: (0..members).map(|_| Member::new()).collect(),
            extra: extra.iter().map(|&argument| argument.to_owned()).collect(),
            ways: Vec::new(),
        };
        cluster.restart().await;
        cluster
    }

    /// Starts a cluster of which members can be cut off from the others.
    pub(crate) async fn start_divisible(members: usize) -> Self {
        let mut cluster = Self {
            members: (0..members).map(|_| Member::new()).collect(),
            extra: Vec::new(),
            ways: Vec::new(),
        };
        for _ in 0..members {
            cluster.ways.push(Way::to(&cluster.members).await);
        }
        cluster.restart().await;
        cluster
    }

    /// Cuts a member of a divisible cluster off from the others, or lets it back: no byte passes in either direction, and nobody is told. Clients reach all of
    /// them all the time.
    pub(crate) fn set_reachable(&self, index: usize, reachable: bool) {
        for other in (0..self.members.len()).filter(|&other| other != index) {
            self.ways[index].gates[other].set_open(reachable);
            self.ways[other].gates[index].set_open(reachable);
        }
    }

    /// The members as `host:port`.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.members.iter().map(|member| format!("127.0.0.1:{}", member.client_port)).collect()
    }

    /// A member's address for TLS, if the extra arguments name a certificate.
    pub(crate) fn tls_address(&self, index: usize) -> String {
        format!("127.0.0.1:{}", self.members[index].tls_port)
    }

    /// Kills a member with SIGKILL.
    pub(crate) fn kill(&mut self, index: usize) {
        if let Some(mut process) = self.members[index].process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Kills all of them.
    pub(crate) fn kill_all(&mut self) {
        (0..self.members.len()).for_each(|index| self.kill(index));
    }

    /// Throws a killed member's data away.
    pub(crate) fn wipe(&self, index: usize) {
        std::fs::remove_dir_all(&self.members[index].directory).unwrap();
    }

    /// Keeps a copy of a killed member's data.
    pub(crate) fn save(&self, index: usize) {
        let directory = &self.members[index].directory;
        copy(directory, &directory.with_extension("saved"));
    }

    /// Puts the copy in place of a killed member's data.
    pub(crate) fn put_back(&self, index: usize) {
        self.wipe(index);
        let directory = &self.members[index].directory;
        std::fs::rename(directory.with_extension("saved"), directory).unwrap();
    }

    /// Starts members that were killed, and waits until the cluster answers.
    pub(crate) async fn restart(&mut self) {
        for index in 0..self.members.len() {
            if self.members[index].process.is_none() {
                self.launch(index);
            }
        }
        self.wait().await;
    }

    /// Stops a member without closing its sockets, or lets it go on.
    pub(crate) fn signal(&self, index: usize, signal: &str) {
        let pid = self.members[index].process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Which member leads.
    pub(crate) async fn leader(&self) -> usize {
        for index in 0..self.members.len() {
            let status = self.ask(index, "maintenance/status", "{}").await.unwrap_or_default();
            let field = |name: &str| {
                let start = status.find(&format!("\"{name}\":\""))? + name.len() + 4;
                Some(status[start..].split('"').next()?.to_owned())
            };
            if field("member_id").is_some() && field("member_id") == field("leader") {
                return index;
            }
        }
        panic!("nobody leads");
    }

    fn launch(&mut self, index: usize) {
        let peers = (0..self.members.len()).map(|one| format!("{}={}", self.members[one].name, self.peer_url(one)));
        let peers = peers.collect::<Vec<String>>().join(",");
        let announced = self.peer_url(index);
        let proxy = self.ways.get(index).map(|way| ("HTTP_PROXY", format!("socks5://{}", way.proxy)));
        let member = &mut self.members[index];
        let client = format!("http://127.0.0.1:{}", member.client_port);
        let listen = match self.extra.iter().any(|argument| argument == "--cert-file") {
            true => format!("{client},https://127.0.0.1:{}", member.tls_port),
            false => client.clone(),
        };
        let peer = format!("http://127.0.0.1:{}", member.peer_port);
        let process = Command::new("etcd")
            .args(["--name", &member.name, "--data-dir"])
            .arg(&member.directory)
            .args(["--listen-client-urls", &listen, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &announced])
            .args(["--initial-cluster", &peers, "--log-level", "error", "--unsafe-no-fsync"])
            .args(&self.extra)
            .envs(proxy)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd is installed; tests/run does that");
        member.process = Some(process);
    }

    /// Where the others look for a member.
    fn peer_url(&self, index: usize) -> String {
        let port = self.members[index].peer_port;
        match self.ways.is_empty() {
            true => format!("http://127.0.0.1:{port}"),
            false => format!("http://192.0.2.{}:{port}", index + 1),
        }
    }

    async fn wait(&self) {
        for _ in 0..600 {
            if self.ask(0, "kv/range", r#"{"key":"eA=="}"#).await.is_some_and(|answer| answer.contains("revision")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("etcd does not answer");
    }

    /// Asks a member by the JSON gateway of etcd; `None` if it does not answer.
    pub(crate) async fn ask(&self, index: usize, what: &str, body: &str) -> Option<String> {
        let port = self.members[index].client_port;
        let asked = async {
            let mut socket = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
            let length = body.len();
            // Of this version, because its answers never come in chunks.
            let request = format!(
                "POST /v3/{what} HTTP/1.0\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
            );
            socket.write_all(request.as_bytes()).await.ok()?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await.ok()?;
            Some(answer)
        };
        tokio::time::timeout(Duration::from_secs(5), asked).await.ok()?
    }

    /// The keys that begin with `prefix`, which ends with `/`, and change from now on, as often as they do.
    pub(crate) async fn watch(&self, prefix: &str) -> mpsc::UnboundedReceiver<Vec<String>> {
        let body = format!(r#"{{"create_request":{{{}}}}}"#, range(prefix));
        let mut socket = TcpStream::connect(("127.0.0.1", self.members[0].client_port)).await.unwrap();
        let length = body.len();
        let request = format!("POST /v3/watch HTTP/1.0\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(socket).lines();
        while !lines.next_line().await.unwrap().unwrap().contains("\"created\":true") {}
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if sender.send(fields(&line, "key").map(from_base64).collect()).is_err() {
                    return;
                }
            }
        });
        receiver
    }

    /// How many keys begin with `prefix`, which ends with `/`.
    pub(crate) async fn count(&self, prefix: &str) -> usize {
        self.count_by(0, prefix).await
    }

    /// The same as one member says, which it does only if it knows from most of the others; 0 else.
    pub(crate) async fn count_by(&self, index: usize, prefix: &str) -> usize {
        let body = format!(r#"{{{},"count_only":true}}"#, range(prefix));
        let answer = self.ask(index, "kv/range", &body).await.unwrap_or_default();
        fields(&answer, "count").next().map_or(0, |count| count.parse().unwrap())
    }

    /// The values of all keys that begin with `prefix`, which ends with `/`.
    pub(crate) async fn values(&self, prefix: &str) -> Vec<String> {
        let answer = self.ask(0, "kv/range", &format!("{{{}}}", range(prefix))).await.unwrap();
        assert!(answer.contains("200 OK"), "{answer}");
        fields(&answer, "value").map(from_base64).collect()
    }

    /// Forgets how the store became what it is now.
    pub(crate) async fn compact(&self) {
        let answer = self.ask(0, "kv/range", r#"{"key":"eA=="}"#).await.unwrap();
        let revision = fields(&answer, "revision").next().unwrap();
        let compacted = self.ask(0, "kv/compaction", &format!(r#"{{"revision":"{revision}"}}"#)).await.unwrap();
        assert!(compacted.contains("200 OK"), "{compacted}");
    }

    pub(crate) async fn put(&self, key: &str, value: &str) {
        let body = format!(r#"{{"key":"{}","value":"{}"}}"#, base64(key), base64(value));
        self.ask(0, "kv/put", &body).await.unwrap();
    }

    pub(crate) async fn delete_key(&self, key: &str) {
        let body = format!(r#"{{"key":"{}"}}"#, base64(key));
        self.ask(0, "kv/deleterange", &body).await.unwrap();
    }

    /// Deletes all keys that begin with `prefix`, which ends with `/`.
    pub(crate) async fn delete(&self, prefix: &str) {
        self.ask(0, "kv/deleterange", &format!("{{{}}}", range(prefix))).await.unwrap();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill_all();
        for member in &self.members {
            let _gone = std::fs::remove_dir_all(&member.directory);
        }
    }
}

impl Member {
    fn new() -> Self {
        let name = unique("sinew-etcd");
        Self {
            client_port: free_port(),
            tls_port: free_port(),
            peer_port: free_port(),
            directory: std::env::temp_dir().join(&name),
            name,
            process: None,
        }
    }
}

impl Way {
    /// To all of `members`, each of which listens on loopback.
    async fn to(members: &[Member]) -> Self {
        let mut gates = Vec::new();
        for member in members {
            gates.push(Gate::in_front_of(format!("127.0.0.1:{}", member.peer_port)).await);
        }
        let addresses: Vec<String> = gates.iter().map(Gate::address).collect();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut passing = JoinSet::new();
            loop {
                let (inside, _) = listener.accept().await.unwrap();
                passing.spawn(pass_on(inside, addresses.clone()));
            }
        });
        Self { proxy, gates, task }
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves one connection of SOCKS 5, as far as etcd needs it: no login, and a target by its IPv4 address, the last number of which tells the member.
///
/// Source: RFC 1928 sections 3, 4 and 6.
async fn pass_on(mut inside: TcpStream, gates: Vec<String>) -> std::io::Result<()> {
    let mut greeting = [0; 2];
    inside.read_exact(&mut greeting).await?;
    let mut methods = vec![0; usize::from(greeting[1])];
    inside.read_exact(&mut methods).await?;
    inside.write_all(&[5, 0]).await?;
    // Version, command, a reserved byte, the kind of address, the address, the port.
    let mut request = [0; 10];
    inside.read_exact(&mut request).await?;
    let [5, 1, 0, 1, 192, 0, 2, number @ 1..=254, _, _] = request else {
        panic!("etcd wants something else of the proxy: {request:?}");
    };
    let mut outside = TcpStream::connect(&gates[usize::from(number) - 1]).await?;
    inside.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
    tokio::io::copy_bidirectional(&mut inside, &mut outside).await?;
    Ok(())
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap().success());
}

/// A port that nobody has, and that nobody gets while its member is down: below those that systems give to connections, or one of the many that are tried
/// meanwhile would take it, and be connected to itself.
fn free_port() -> u16 {
    // Each at most once in this process, from a place of its own on.
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(fastrand::u16(15_000..31_000)));
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let next = || NEXT.fetch_add(1, Ordering::Relaxed);
    std::iter::repeat_with(next).take(1_000).find(is_free).expect("a port is free")
}

/// All keys that begin with `prefix`, which ends with `/`: the fields of a request that say so.
fn range(prefix: &str) -> String {
    let end = format!("{}0", &prefix[..prefix.len() - 1]);
    format!(r#""key":"{}","range_end":"{}""#, base64(prefix), base64(&end))
}

/// What an answer has in fields of that name.
fn fields<'a>(answer: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let begin = format!("\"{name}\":\"");
    let rests: Vec<&str> = answer.split(&begin).skip(1).collect();
    rests.into_iter().filter_map(|rest| rest.split('"').next())
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// As the JSON gateway wants keys and values.
fn base64(text: &str) -> String {
    let mut encoded = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit)) as usize & 63;
            encoded.push(if digit <= chunk.len() {
                char::from(DIGITS[index])
            } else {
                '='
            });
        }
    }
    encoded
}

/// As the JSON gateway tells them.
fn from_base64(text: &str) -> String {
    let mut bytes = Vec::new();
    for chunk in text.as_bytes().chunks(4) {
        let digits = chunk.iter().filter_map(|digit| DIGITS.iter().position(|one| one == digit));
        let digits: Vec<u32> = digits.map(|digit| u32::try_from(digit).unwrap()).collect();
        let bits = digits.iter().fold(0_u32, |bits, &digit| bits << 6 | digit) << (6 * (4 - digits.len()));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..digits.len()]);
    }
    String::from_utf8(bytes).unwrap()
}

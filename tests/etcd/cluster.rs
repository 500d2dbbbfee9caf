//! A real etcd: one member or a cluster, on ports that were free a moment ago, killed and stopped for real.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::fixture::unique;

/// A cluster; its processes are killed with it.
pub(crate) struct Cluster {
    members: Vec<Member>,
    extra: Vec<String>,
}

struct Member {
    name: String,
    client_port: u16,
    tls_port: u16,
    peer_port: u16,
    directory: PathBuf,
    process: Option<Child>,
}

impl Cluster {
    /// Starts a cluster, and waits until it answers.
    pub(crate) async fn start(members: usize, extra: &[&str]) -> Self {
        let mut cluster = Self {
            members: (0..members).map(|_| Member::new()).collect(),
            extra: extra.iter().map(|&argument| argument.to_owned()).collect(),
        };
        for index in 0..members {
            cluster.launch(index);
        }
        cluster.wait().await;
        cluster
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
        let peers: Vec<String> =
            self.members.iter().map(|one| format!("{}=http://127.0.0.1:{}", one.name, one.peer_port)).collect();
        let peers = peers.join(",");
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
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &peers, "--log-level", "error", "--unsafe-no-fsync"])
            .args(&self.extra)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd is installed; tests/run does that");
        member.process = Some(process);
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
            let request = format!(
                "POST /v3/{what} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
            );
            socket.write_all(request.as_bytes()).await.ok()?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await.ok()?;
            Some(answer)
        };
        tokio::time::timeout(Duration::from_secs(5), asked).await.ok()?
    }

    /// How many keys begin with `prefix`, which ends with `/`.
    pub(crate) async fn count(&self, prefix: &str) -> usize {
        let end = format!("{}0", &prefix[..prefix.len() - 1]);
        let body = format!(
            r#"{{"key":"{}","range_end":"{}","count_only":true}}"#,
            base64(prefix),
            base64(&end)
        );
        let answer = self.ask(0, "kv/range", &body).await.unwrap_or_default();
        let count = answer.split("\"count\":\"").nth(1).and_then(|rest| rest.split('"').next());
        count.map_or(0, |count| count.parse().unwrap())
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
        let end = format!("{}0", &prefix[..prefix.len() - 1]);
        let body = format!(r#"{{"key":"{}","range_end":"{}"}}"#, base64(prefix), base64(&end));
        self.ask(0, "kv/deleterange", &body).await.unwrap();
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

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap().success());
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// As the JSON gateway wants keys and values.
fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
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

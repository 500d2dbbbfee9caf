//! A peer that writes whatever it likes: the wire's documentation in a few lines, without any code of the framework.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc;

pub(crate) use super::frames::{CREDIT, DATA, END, FIN, GOAWAY, HELLO, OPEN, PING, PONG, REPLY, RESET, frame, message};

pub(crate) const PROTOCOL: u32 = 1;
pub(crate) const FLOW_CONTROL: u32 = 3;
pub(crate) const TOO_LARGE: u32 = 4;
pub(crate) const CALM_DOWN: u32 = 5;
pub(crate) const KEEPALIVE_TIMEOUT: u32 = 7;
pub(crate) const IDLE: u32 = 10;
pub(crate) const VERSION: u32 = 8;
pub(crate) const HANDSHAKE_TIMEOUT: u32 = 9;

pub(crate) const PREFACE: &[u8] = b"\xF5SINEW\x01\x00";

/// Time after which a test that waits for an event fails; nothing is expected to come near it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A HELLO whose sender takes pings at any pace; all else is the default.
pub(crate) fn hello() -> Vec<u8> {
    let mut map = vec![0x81, 0xb4];
    map.extend_from_slice(b"ping_interval_min_ms");
    map.push(0);
    frame(HELLO, 0, &map)
}

/// Encoded arguments, as a message.
pub(crate) fn arguments(values: &impl serde::Serialize) -> Vec<u8> {
    message(&rmp_serde::to_vec(values).unwrap())
}

/// The arguments of a method that has none.
pub(crate) fn nothing() -> Vec<u8> {
    message(&[0x90])
}

/// A request head; `metadata` is written as it is.
pub(crate) fn head(method: &str, timeout_ms: u32, metadata: &[u8]) -> Vec<u8> {
    let id = sinew::wire::method_id(&format!("attack.Target/{method}"));
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend_from_slice(&timeout_ms.to_be_bytes());
    bytes.extend_from_slice(&u16::try_from(metadata.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(metadata);
    bytes
}

/// One entry of metadata, whether or not it keeps the rules.
pub(crate) fn entry(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(key.len()).unwrap()];
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(&u16::try_from(value.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(value);
    bytes
}

/// An OPEN with these stream bytes and without metadata.
pub(crate) fn open(stream: u32, method: &str, body: &[u8], fin: bool) -> Vec<u8> {
    let kind = if fin { OPEN | FIN } else { OPEN };
    frame(kind, stream, &[&head(method, 0, &[])[..], body].concat())
}

/// A received frame.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// A connection of a bad peer. What the other side sends is read all the time, so that nobody waits for it.
pub(crate) struct Bad {
    writer: OwnedWriteHalf,
    frames: mpsc::UnboundedReceiver<Frame>,
    reading: tokio::task::JoinHandle<()>,
}

impl Bad {
    /// Connects and says nothing.
    pub(crate) async fn silent(target: &str) -> Self {
        let address = target.trim_start_matches("tcp://");
        Self::over(TcpStream::connect(address).await.unwrap())
    }

    /// Connects and greets as one should.
    pub(crate) async fn greeted(target: &str) -> Self {
        let mut bad = Self::silent(target).await;
        bad.send(&[PREFACE, &hello()].concat()).await;
        bad
    }

    /// Speaks over a stream that was made elsewhere.
    pub(crate) fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        let (mut reader, writer) = stream.into_split();
        let (sender, frames) = mpsc::unbounded_channel();
        let reading = tokio::spawn(async move {
            let mut preface = [0; 8];
            if reader.read_exact(&mut preface).await.is_err() {
                return;
            }
            let mut header = [0; 8];
            while reader.read_exact(&mut header).await.is_ok() {
                let len = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
                let mut payload = vec![0; len];
                if reader.read_exact(&mut payload).await.is_err() {
                    return;
                }
                let stream = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                let kind = header[3];
                if sender.send(Frame { kind, stream, payload }).is_err() {
                    return;
                }
            }
        });
        Self {
            writer,
            frames,
            reading,
        }
    }

    /// Sends bytes; false if the other side has hung up.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        tokio::time::timeout(PATIENCE, self.writer.write_all(bytes))
            .await
            .expect("the server stopped reading")
            .is_ok()
    }

    /// The next frame; `None` when the other side hung up.
    pub(crate) async fn frame(&mut self) -> Option<Frame> {
        tokio::time::timeout(PATIENCE, self.frames.recv()).await.expect("nothing came")
    }

    /// The next frame of this kind, whatever comes before it.
    pub(crate) async fn expect(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.frame().await.unwrap_or_else(|| panic!("the server hung up; frame {kind} expected"));
            if frame.kind & 0x1f == kind {
                return frame;
            }
        }
    }

    /// The gRPC code with which a stream ends.
    pub(crate) async fn end_of(&mut self, stream: u32) -> u8 {
        loop {
            let end = self.expect(END).await;
            if end.stream == stream {
                return end.payload[0];
            }
        }
    }

    /// The answer of a unary call in one frame, without its head.
    pub(crate) async fn reply_of(&mut self, stream: u32) -> Vec<u8> {
        loop {
            let reply = self.expect(REPLY).await;
            if reply.stream == stream {
                let metadata = usize::from(u16::from_be_bytes([reply.payload[0], reply.payload[1]]));
                return reply.payload[2 + metadata..].to_vec();
            }
        }
    }

    /// The code and the reason of the GOAWAY that ends the connection; then the other side must hang up.
    pub(crate) async fn sent_away(&mut self) -> (u32, String) {
        loop {
            let frame = self.expect(GOAWAY).await;
            let code = u32::from_be_bytes(frame.payload[4..8].try_into().unwrap());
            if code != 0 {
                let reason = String::from_utf8(frame.payload[8..].to_vec()).unwrap();
                self.hung_up().await;
                return (code, reason);
            }
        }
    }

    /// Waits until the other side hangs up.
    pub(crate) async fn hung_up(&mut self) {
        while self.frame().await.is_some() {}
    }

    /// Sends `make(round)` until the other side had enough; tells how often, and with which code it ended.
    pub(crate) async fn flood(&mut self, rounds: u32, make: impl Fn(u32) -> Vec<u8>) -> (u32, u32) {
        let mut sent = 0;
        while sent < rounds {
            let until = (sent + 64).min(rounds);
            let burst: Vec<u8> = (sent + 1..=until).flat_map(&make).collect();
            if !self.send(&burst).await {
                break;
            }
            sent = until;
            tokio::task::yield_now().await;
        }
        let (code, _) = self.sent_away().await;
        (sent, code)
    }

    /// Hangs up without a word.
    pub(crate) fn vanish(self) {
        drop(self);
    }
}

impl Drop for Bad {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

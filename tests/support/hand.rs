//! A peer that speaks the wire by hand, frame by frame, and may say anything.
//!
//! Written from the documentation of the wire, not from its code, so that the two check each other.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use sinew::Channel;
use sinew::transport::{ByteStream, SharedWrite};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

use super::fixture::{Fixture, connector};
pub(crate) use super::frames::{CREDIT, DATA, END, FIN, GOAWAY, HELLO, OPEN, PING, PONG, REPLY, RESET, frame, message};

const PREFACE: [u8; 8] = [0xF5, b'S', b'I', b'N', b'E', b'W', 1, 0];

/// A frame as it arrived.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) fin: bool,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// One end of a connection, in the hands of a test.
pub(crate) struct Hand {
    reader: Pin<Box<dyn AsyncRead + Send>>,
    writer: Box<dyn SharedWrite>,
}

/// A channel whose connections arrive in the returned queue, to be answered by hand.
pub(crate) fn channel_to_hand(fixture: Fixture) -> (Channel, mpsc::UnboundedReceiver<ByteStream>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let connector = connector(fixture, move |stream| {
        // The test may have stopped answering; then the connection just closes.
        let _over = sender.send(stream);
    });
    (Channel::builder().with_connector("hand:", connector).unwrap(), receiver)
}

impl Hand {
    /// Takes the stream and says nothing yet.
    pub(crate) fn new(stream: ByteStream) -> Self {
        let mut halves = None;
        let _hollow = stream.wrapped(|reader, writer| {
            halves = Some((reader, writer));
            (Box::pin(tokio::io::empty()), Box::new(Nowhere))
        });
        let (reader, writer) = halves.expect("`wrapped` calls its argument");
        Self { reader, writer }
    }

    /// Takes the stream, sends preface and HELLO with `fields` and reads the peer's.
    pub(crate) async fn greet(stream: ByteStream, fields: &[(&str, u32)]) -> Self {
        let mut hand = Self::new(stream);
        hand.write(&PREFACE).await;
        let mut hello = vec![0x80 | u8::try_from(fields.len()).unwrap()];
        for (name, value) in fields {
            hello.push(0xa0 | u8::try_from(name.len()).unwrap());
            hello.extend_from_slice(name.as_bytes());
            hello.push(0xce);
            hello.extend_from_slice(&value.to_be_bytes());
        }
        hand.send(HELLO, 0, &hello).await;
        let mut preface = [0; 8];
        hand.reader.read_exact(&mut preface).await.unwrap();
        assert_eq!(preface, PREFACE);
        assert_eq!(hand.read().await.unwrap().kind, HELLO);
        hand
    }

    /// Sends one frame.
    pub(crate) async fn send(&mut self, kind: u8, stream: u32, payload: &[u8]) {
        self.send_all(&[(kind, stream, payload)]).await;
    }

    /// Sends frames in one write.
    pub(crate) async fn send_all(&mut self, frames: &[(u8, u32, &[u8])]) {
        let bytes: Vec<u8> = frames.iter().flat_map(|(kind, stream, payload)| frame(*kind, *stream, payload)).collect();
        self.write(&bytes).await;
    }

    /// Writes what the peer takes now; returns what it does not.
    pub(crate) fn offer<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        match self.writer.try_write_vectored(&[IoSlice::new(bytes)]) {
            Ok(written) => &bytes[written..],
            // It takes nothing now, or has hung up, which the next read tells.
            Err(_) => bytes,
        }
    }

    /// Sends a response head without metadata, and `rest` in the same frame.
    pub(crate) async fn reply(&mut self, kind: u8, stream: u32, rest: &[u8]) {
        let mut payload = vec![0, 0];
        payload.extend_from_slice(rest);
        self.send(kind, stream, &payload).await;
    }

    /// Sends GOAWAY.
    pub(crate) async fn go_away(&mut self, last: u32, code: u32) {
        let payload = [last.to_be_bytes(), code.to_be_bytes()].concat();
        self.send(GOAWAY, 0, &payload).await;
    }

    /// Reads over bytes that are no frame.
    pub(crate) async fn skip(&mut self, bytes: usize) {
        let mut skipped = vec![0; bytes];
        self.reader.read_exact(&mut skipped).await.unwrap();
    }

    /// The next frame; `None` at the end of the connection.
    pub(crate) async fn read(&mut self) -> Option<Frame> {
        let mut header = [0; 8];
        self.reader.read_exact(&mut header).await.ok()?;
        let len = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let mut payload = vec![0; len];
        self.reader.read_exact(&mut payload).await.ok()?;
        Some(Frame {
            kind: header[3] & 0x1f,
            fin: header[3] & FIN != 0,
            stream: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            payload,
        })
    }

    /// The next frame of `kind`; others are read over. `None` at the end of the connection.
    pub(crate) async fn read_kind(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.read().await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// Reads a whole request; returns its stream. `None` at the end of the connection.
    pub(crate) async fn request(&mut self) -> Option<u32> {
        let open = self.read_kind(OPEN).await?;
        let mut fin = open.fin;
        while !fin {
            let frame = self.read().await?;
            fin = frame.fin && frame.stream == open.stream;
        }
        Some(open.stream)
    }

    #[expect(
        clippy::needless_pass_by_ref_mut,
        reason = "a shared borrow over an await would ask the reader to be `Sync`"
    )]
    async fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.writer.try_write_vectored(&[IoSlice::new(bytes)]) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if std::future::poll_fn(|task| self.writer.poll_write_ready(task)).await.is_err() {
                        return;
                    }
                }
                // The peer hung up, which the next read tells.
                Err(_) => return,
            }
        }
    }
}

struct Nowhere;

impl SharedWrite for Nowhere {
    fn try_write_vectored(&self, _: &[IoSlice<'_>]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn poll_write_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn shutdown(&self) {}
}

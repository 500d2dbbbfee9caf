//! A client and a server, the bytes between them, and a clock: all in the hands of the test.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::metadata::Metadata;
use crate::mux::{
    Chunk, Events, Incoming, Mux, MuxConfig, OpenError, OpenRequest, Role, StreamKey, Transmit, UnaryReply,
};
use crate::wire::message::{EncodedMessage, Payload};

/// A mux with what its driver would hold.
pub(super) struct Side {
    pub(super) mux: Mux,
    transmit: Transmit,
    /// Bytes that arrived and were not used yet.
    leftover: Vec<u8>,
    /// Bytes that are under way to the other side.
    pub(super) sent: Vec<u8>,
    pub(super) events: Events,
}

impl Side {
    pub(super) fn new(role: Role, config: MuxConfig, now: Instant) -> Self {
        Self {
            mux: Mux::new(role, config, now),
            transmit: Transmit::default(),
            leftover: Vec::new(),
            sent: Vec::new(),
            events: Events::default(),
        }
    }

    /// Takes up bytes, as a driver does: what is not used is given again later.
    pub(super) fn feed(&mut self, now: Instant, bytes: &[u8]) {
        self.leftover.extend_from_slice(bytes);
        let used = self.mux.handle_input(now, &self.leftover, &mut self.events);
        self.leftover.drain(..used);
        assert!(
            self.leftover.len() <= crate::mux::CONTIGUOUS_BYTES_MAX,
            "a driver's buffer holds what is not used"
        );
    }

    /// Writes one turn; false if there was nothing.
    pub(super) fn write_turn(&mut self) -> bool {
        if !self.mux.poll_transmit(&mut self.transmit) {
            return false;
        }
        let mut written = 0;
        while !self.transmit.is_empty() {
            let mut slices = [std::io::IoSlice::new(&[]); 4];
            let filled = self.transmit.slices(&mut slices);
            // A write may stop anywhere: here inside the last slice.
            let mut turn: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
            turn.truncate((turn.len() * 2).div_ceil(3));
            self.sent.extend_from_slice(&turn);
            self.transmit.advance(turn.len());
            written += turn.len();
        }
        written > 0
    }

    pub(super) fn write_all(&mut self) -> bool {
        let mut any = false;
        while self.write_turn() {
            any = true;
        }
        any
    }
}

/// A call as the server got it.
pub(super) struct ServerCall {
    pub(super) key: StreamKey,
    pub(super) method: u64,
    pub(super) arguments: Payload,
}

pub(super) struct Pair {
    pub(super) client: Side,
    pub(super) server: Side,
    pub(super) now: Instant,
    /// Calls whose arguments arrived, in order.
    pub(super) calls: Vec<ServerCall>,
    /// Heads of calls whose arguments have not arrived.
    waiting: Vec<(StreamKey, u64)>,
    /// Calls that ended for the server without its doing.
    pub(super) ended: Vec<(StreamKey, crate::mux::EndCause)>,
}

impl Pair {
    pub(super) fn new() -> Self {
        Self::with(MuxConfig::default(), MuxConfig::default())
    }

    pub(super) fn with(client: MuxConfig, server: MuxConfig) -> Self {
        client.check().unwrap();
        server.check().unwrap();
        Self::unchecked(client, server)
    }

    /// A pair of which one may ask for what no configuration of ours would.
    pub(super) fn unchecked(client: MuxConfig, server: MuxConfig) -> Self {
        let now = crate::time::now();
        Self {
            client: Side::new(Role::Client, client, now),
            server: Side::new(Role::Server, server, now),
            now,
            calls: Vec::new(),
            waiting: Vec::new(),
            ended: Vec::new(),
        }
    }

    /// A pair whose HELLOs have arrived.
    pub(super) fn ready() -> Self {
        let mut pair = Self::new();
        pair.run();
        pair
    }

    /// Moves up to `bytes` to the server.
    pub(super) fn deliver_to_server(&mut self, bytes: usize) {
        let len = bytes.min(self.client.sent.len());
        let moved: Vec<u8> = self.client.sent.drain(..len).collect();
        self.server.feed(self.now, &moved);
        self.take_calls();
    }

    /// Moves up to `bytes` to the client.
    pub(super) fn deliver_to_client(&mut self, bytes: usize) {
        let len = bytes.min(self.server.sent.len());
        let moved: Vec<u8> = self.server.sent.drain(..len).collect();
        self.client.feed(self.now, &moved);
    }

    /// Moves everything until nothing is left to move.
    pub(super) fn run(&mut self) {
        loop {
            let mut any = self.client.write_all() | self.server.write_all();
            any |= !self.client.sent.is_empty() || !self.server.sent.is_empty();
            if !any {
                return;
            }
            self.deliver_to_server(usize::MAX);
            self.deliver_to_client(usize::MAX);
        }
    }

    fn take_calls(&mut self) {
        for incoming in self.server.events.incoming.drain(..) {
            match incoming {
                Incoming::Opened {
                    key,
                    head,
                    arguments: Some(arguments),
                    ..
                } => self.calls.push(ServerCall {
                    key,
                    method: head.method,
                    arguments,
                }),
                Incoming::Opened { key, head, .. } => self.waiting.push((key, head.method)),
                Incoming::Arguments { key, arguments, .. } => {
                    let at = self.waiting.iter().position(|(waiting, _)| *waiting == key).unwrap();
                    let (key, method) = self.waiting.swap_remove(at);
                    self.calls.push(ServerCall { key, method, arguments });
                }
            }
        }
        for ended in self.server.events.ended.drain(..) {
            self.waiting.retain(|(key, _)| *key != ended.key);
            self.ended.push((ended.key, ended.cause));
        }
    }

    /// Lets time pass, firing every time-out on its way.
    pub(super) fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        loop {
            let due = [self.client.mux.next_timeout(), self.server.mux.next_timeout()].into_iter().flatten().min();
            let Some(due) = due.filter(|due| *due <= until) else {
                break;
            };
            self.now = self.now.max(due);
            for side in [&mut self.client, &mut self.server] {
                if side.mux.next_timeout().is_some_and(|due| due <= self.now) {
                    side.mux.handle_timeout(self.now, &mut side.events);
                    let next = side.mux.next_timeout();
                    assert!(
                        next.is_none_or(|next| next > self.now),
                        "a time-out that fired is not due again: a timer would spin"
                    );
                }
            }
            self.take_calls();
            self.run();
        }
        self.now = until;
    }

    /// Opens a call with arguments of `size` bytes.
    pub(super) fn open(
        &mut self,
        method: u64,
        size: usize,
        fin: bool,
        timeout: Option<Duration>,
    ) -> Result<StreamKey, OpenError> {
        let arguments = message(size, u8::try_from(method % 251).unwrap());
        self.open_with(method, &arguments, &Metadata::new(), fin, timeout)
    }

    pub(super) fn open_with(
        &mut self,
        method: u64,
        arguments: &EncodedMessage,
        metadata: &Metadata,
        fin: bool,
        timeout: Option<Duration>,
    ) -> Result<StreamKey, OpenError> {
        let deadline = timeout.map(|timeout| self.now + timeout);
        let request = OpenRequest {
            method,
            timeout: deadline.map_or(0, |deadline| crate::time::to_wire_timeout(deadline, self.now)),
            deadline,
            metadata,
            arguments,
            fin,
        };
        self.client.mux.open(self.now, &request)
    }

    /// Opens a unary call and moves it to the server.
    pub(super) fn call(&mut self, size: usize) -> (StreamKey, StreamKey) {
        let key = self.open(1, size, true, None).unwrap();
        self.run();
        (key, self.calls.pop().unwrap().key)
    }

    /// Opens a streaming call and moves it to the server.
    pub(super) fn stream(&mut self) -> (StreamKey, StreamKey) {
        let key = self.open(1, 8, false, None).unwrap();
        self.run();
        (key, self.calls.pop().unwrap().key)
    }

    pub(super) fn reply(&mut self, key: StreamKey, size: usize) {
        let none = Metadata::new();
        self.server.mux.reply(key, &none, &message(size, 7), &none);
    }

    /// The reply of a unary call that must be there.
    pub(super) fn take_reply(&mut self, key: StreamKey) -> Result<UnaryReply, crate::mux::StreamError> {
        match self.client.mux.poll_reply(key, &noop()) {
            Poll::Ready(reply) => reply,
            Poll::Pending => panic!("no reply"),
        }
    }

    /// When quiet: every byte of every window is at exactly one place.
    pub(super) fn check_credit(&mut self) {
        assert!(
            self.client.sent.is_empty() && self.server.sent.is_empty(),
            "to be called when all has arrived"
        );
        check_direction(&mut self.client.mux, &mut self.server.mux);
        check_direction(&mut self.server.mux, &mut self.client.mux);
    }
}

fn check_direction(sender: &mut Mux, receiver: &mut Mux) {
    if sender.end.is_some() || receiver.end.is_some() {
        return;
    }
    let (size, left, owed) = receiver.recv_window.parts();
    let mut unread = 0;
    let mut windows = Vec::new();
    receiver.streams.for_each(|stream| {
        unread += stream.recv.unread();
        if !stream.recv.fin && stream.error.is_none() && !stream.recv.discarding {
            windows.push((stream.id, stream.recv.window.parts(), stream.recv.unread()));
        }
    });
    assert_eq!(
        left as usize + owed as usize + unread,
        size as usize,
        "the connection's window is whole"
    );
    assert_eq!(sender.send_credit, left, "both sides agree on the connection's credit");
    for (id, (size, left, owed), unread) in windows {
        let Some(stream) = sender.streams.by_id(id) else {
            continue;
        };
        if stream.send.closed {
            continue;
        }
        assert_eq!(
            left as usize + owed as usize + unread,
            size as usize,
            "the window of {id:?} is whole"
        );
        assert_eq!(stream.send.credit, left, "both sides agree on the credit of {id:?}");
    }
}

/// A message of `size` bytes, all of them `fill`.
pub(super) fn message(size: usize, fill: u8) -> EncodedMessage {
    EncodedMessage::from_encoded(Bytes::from(vec![fill; size]))
}

/// A message with its length, as `Mux::send` takes it.
pub(super) fn framed(size: usize, fill: u8) -> Vec<u8> {
    let mut bytes = u32::try_from(size).unwrap().to_be_bytes().to_vec();
    bytes.resize(4 + size, fill);
    bytes
}

/// The messages of a chunk.
pub(super) fn messages(chunk: Chunk) -> Vec<Vec<u8>> {
    match chunk {
        Chunk::One(payload) => vec![payload.to_vec()],
        Chunk::Batch(batch) => {
            let (mut at, mut found) = (0, Vec::new());
            while let Some((message, end)) = crate::mux::calls::split_batch(&batch, at) {
                found.push(message.to_vec());
                at = end;
            }
            found
        }
    }
}

pub(super) fn noop() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// Counts how often it was woken.
#[derive(Default)]
pub(super) struct Counter(AtomicUsize);

impl Counter {
    pub(super) fn new() -> (Arc<Self>, Waker) {
        let counter = Arc::new(Self::default());
        (Arc::clone(&counter), Waker::from(counter))
    }

    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

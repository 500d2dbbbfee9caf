//! One unary call through two connections' state machines: framing, streams and credit, no I/O and no handler.

use std::io::IoSlice;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use criterion::Criterion;
use sinew_core::metadata::Metadata;
use sinew_core::mux::{Events, Incoming, Mux, MuxConfig, OpenRequest, Role, Transmit};
use sinew_core::time;
use sinew_core::wire::message::EncodedMessage;

/// A client and a server whose byte streams are two vectors.
struct Pair {
    now: Instant,
    client: Mux,
    server: Mux,
    events: Events,
    transmit: Transmit,
    bytes: Vec<u8>,
    none: Metadata,
}

impl Pair {
    fn new() -> Self {
        let now = time::now();
        let mut pair = Self {
            now,
            client: Mux::new(Role::Client, MuxConfig::default(), now),
            server: Mux::new(Role::Server, MuxConfig::default(), now),
            events: Events::default(),
            transmit: Transmit::default(),
            bytes: Vec::new(),
            none: Metadata::new(),
        };
        pair.carry(Role::Client);
        pair.carry(Role::Server);
        pair
    }

    /// Carries what one side has to say to the other.
    fn carry(&mut self, from: Role) {
        let (sender, receiver) = match from {
            Role::Client => (&mut self.client, &mut self.server),
            _ => (&mut self.server, &mut self.client),
        };
        self.bytes.clear();
        while sender.poll_transmit(&mut self.transmit) {
            while !self.transmit.is_empty() {
                let mut slices = [IoSlice::new(&[]); 16];
                let filled = self.transmit.slices(&mut slices);
                let before = self.bytes.len();
                for slice in &slices[..filled] {
                    self.bytes.extend_from_slice(slice);
                }
                let written = self.bytes.len() - before;
                self.transmit.advance(written);
            }
        }
        let used = receiver.handle_input(self.now, &self.bytes, &mut self.events);
        assert_eq!(used, self.bytes.len(), "whole frames are used up");
    }

    /// `calls` calls that are open at the same time.
    fn round_trips(&mut self, calls: usize, message: &EncodedMessage) {
        let task = Context::from_waker(Waker::noop());
        let request = OpenRequest {
            method: 7,
            timeout: 0,
            deadline: None,
            metadata: &self.none,
            arguments: message,
            fin: true,
        };
        let mut keys = [None; 64];
        for key in &mut keys[..calls] {
            *key = self.client.open(self.now, &request).ok();
        }
        self.carry(Role::Client);
        for incoming in self.events.incoming.drain(..) {
            if let Incoming::Opened { key, .. } = incoming {
                self.server.reply(key, &self.none, message, &self.none);
            }
        }
        self.carry(Role::Server);
        for key in keys.into_iter().flatten() {
            let reply = self.client.poll_reply(key, &task);
            assert!(matches!(reply, Poll::Ready(Ok(_))), "{reply:?}");
        }
        self.events.wakers.clear();
        self.events.ended.clear();
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    mux(&mut criterion);
    criterion.final_summary();
}

fn mux(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mux");
    group.sample_size(30);
    let message = EncodedMessage::from_encoded(Bytes::from_static(&[0xc0; 32]));
    for calls in [1, 64] {
        let mut pair = Pair::new();
        group.throughput(criterion::Throughput::Elements(calls as u64));
        group.bench_function(format!("unary round trip, {calls} open"), |bencher| {
            bencher.iter(|| pair.round_trips(calls, &message));
        });
    }
    group.finish();
}

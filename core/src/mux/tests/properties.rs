//! Properties: no bytes panic, everything arrives whole under any schedule, credit is conserved.

use std::collections::HashMap;
use std::task::Poll;
use std::time::Duration;

use proptest::prelude::*;

use super::pair::{Pair, framed, messages, noop};
use super::raw::{Raw, frame, hello, preface};
use crate::metadata::Metadata;
use crate::mux::{MuxConfig, OpenRequest, Role, StreamError, StreamKey};
use crate::status::Status;
use crate::wire::frame::{CONNECTION_WINDOW_MIN, STREAM_WINDOW_MIN};

fn small_windows() -> MuxConfig {
    MuxConfig {
        max_frame: 32 * 1024,
        stream_window: STREAM_WINDOW_MIN,
        connection_window: CONNECTION_WINDOW_MIN,
        max_streams: 64,
        ..MuxConfig::default()
    }
}

/// Frames that are nearly right: known kinds, few streams, short payloads.
fn frames() -> impl Strategy<Value = Vec<(u8, u32, Vec<u8>)>> {
    let payload = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        Just(vec![0, 0, 0, 0]),
        Just(vec![0, 0]),
        Just([&[0; 14][..], &[0, 0, 0, 1, 0x90]].concat()),
        Just(vec![0, 0, 0, 2, 1, 2]),
        (0_usize..40_000).prop_map(|len| vec![0; len]),
    ];
    let kind = prop_oneof![0_u8..20, (0_u8..20).prop_map(|kind| kind | 0x80), any::<u8>()];
    proptest::collection::vec((kind, prop_oneof![0_u32..6, any::<u32>()], payload), 0..40)
}

/// A mux of either role with a few open calls, as far as it can have some.
fn busy(role: Role) -> Raw {
    let mut raw = Raw::started(role, small_windows());
    if role == Role::Client {
        for fin in [true, false, true] {
            let request = OpenRequest {
                method: 7,
                timeout: 5,
                deadline: Some(raw.now + Duration::from_millis(5)),
                metadata: &Metadata::new(),
                arguments: &super::pair::message(30_000, 1),
                fin,
            };
            raw.side.mux.open(raw.now, &request).unwrap();
        }
    }
    raw
}

/// Does to the calls that arrived what a server might.
fn answer(raw: &mut Raw, turn: usize) {
    let none = Metadata::new();
    for (key, _) in raw.calls() {
        let mux = &mut raw.side.mux;
        match turn % 5 {
            0 => mux.reply(key, &none, &super::pair::message(100, 1), &none),
            1 => mux.reply(key, &none, &super::pair::message(100_000, 1), &none),
            2 => mux.finish_call(key, Some(&Status::internal("x")), &none),
            3 => mux.stop_reading(key),
            _ => {
                mux.reply_head(key, &none);
            }
        }
    }
    raw.side.events.ended.clear();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_bytes_panic_neither_role(bytes in proptest::collection::vec(any::<u8>(), 0..400), cut in 1_usize..64) {
        for role in [Role::Client, Role::Server] {
            let mut raw = Raw::silent(role, MuxConfig::default());
            raw.feed(&bytes);
            let mut raw = Raw::silent(role, MuxConfig::default());
            raw.feed(&[preface(), hello()].concat());
            for part in bytes.chunks(cut) {
                raw.feed(part);
            }
        }
    }

    #[test]
    fn any_frames_panic_neither_role(frames in frames(), cut in 1_usize..5_000) {
        let bytes: Vec<u8> = frames.iter().flat_map(|(kind, stream, payload)| frame(*kind, *stream, payload)).collect();
        for role in [Role::Client, Role::Server] {
            let mut raw = busy(role);
            for (turn, part) in bytes.chunks(cut).enumerate() {
                raw.feed(part);
                answer(&mut raw, turn);
                raw.now += Duration::from_millis(1);
                raw.side.mux.handle_timeout(raw.now, &mut raw.side.events);
                let _frames = raw.frames();
                let (size, left, owed) = raw.side.mux.recv_window.parts();
                prop_assert!(left + owed <= size);
            }
        }
    }

    #[test]
    fn unary_calls_survive_any_cuts(
        sizes in proptest::collection::vec(prop_oneof![0_usize..100, 0_usize..200_000], 1..20),
        cuts in proptest::collection::vec(1_usize..70_000, 1..30),
        windows in any::<bool>(),
    ) {
        let config = if windows { small_windows() } else { MuxConfig::default() };
        let mut pair = Pair::with(config.clone(), config);
        let mut keys = Vec::new();
        for (method, size) in (0..).zip(&sizes) {
            keys.push(pair.open(method, *size, true, None).unwrap());
        }
        let mut cut = cuts.iter().cycle();
        let mut answered = 0;
        for _ in 0..200_000 {
            pair.client.write_turn();
            pair.deliver_to_server(*cut.next().unwrap());
            for call in std::mem::take(&mut pair.calls) {
                let size = sizes[usize::try_from(call.method).unwrap()];
                let fill = u8::try_from(call.method % 251).unwrap();
                prop_assert!(call.arguments.len() == size && call.arguments.iter().all(|byte| *byte == fill));
                pair.reply(call.key, size);
                answered += 1;
            }
            pair.server.write_turn();
            pair.deliver_to_client(*cut.next().unwrap());
            let idle = !pair.client.mux.wants_transmit() && !pair.server.mux.wants_transmit();
            if answered == sizes.len() && idle && pair.client.sent.is_empty() && pair.server.sent.is_empty() {
                break;
            }
        }
        for (key, size) in keys.into_iter().zip(&sizes) {
            prop_assert_eq!(pair.take_reply(key).unwrap().message.unwrap().len(), *size);
        }
        pair.run();
        pair.check_credit();
        prop_assert_eq!((pair.client.mux.open_streams(), pair.server.mux.open_streams()), (0, 0));
    }
}

/// A step of a random schedule.
#[derive(Clone, Debug)]
enum Step {
    Open { size: usize, streaming: bool, millis: u64 },
    ClientSends { which: usize, size: usize },
    ClientCloses { which: usize },
    ClientReads { which: usize },
    Cancel { which: usize },
    ServerHead { which: usize },
    ServerSends { which: usize, size: usize },
    ServerReads { which: usize },
    ServerIgnores { which: usize },
    Reply { which: usize, size: usize },
    Finish { which: usize, ok: bool },
    Refuse { which: usize },
    WriteClient,
    WriteServer,
    ToServer { bytes: usize },
    ToClient { bytes: usize },
    Pass { millis: u64 },
    Drain,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let which = 0_usize..8;
    let size = prop_oneof![4 => 0_usize..300, 2 => 0_usize..10_000, 1 => 0_usize..200_000];
    let bytes = prop_oneof![0_usize..50, 0_usize..100_000];
    let step = prop_oneof![
        6 => (size.clone(), any::<bool>(), prop_oneof![3 => Just(0), 1 => 1_u64..50])
            .prop_map(|(size, streaming, millis)| Step::Open { size, streaming, millis }),
        4 => (which.clone(), size.clone()).prop_map(|(which, size)| Step::ClientSends { which, size }),
        1 => which.clone().prop_map(|which| Step::ClientCloses { which }),
        4 => which.clone().prop_map(|which| Step::ClientReads { which }),
        2 => which.clone().prop_map(|which| Step::Cancel { which }),
        2 => which.clone().prop_map(|which| Step::ServerHead { which }),
        4 => (which.clone(), size.clone()).prop_map(|(which, size)| Step::ServerSends { which, size }),
        4 => which.clone().prop_map(|which| Step::ServerReads { which }),
        1 => which.clone().prop_map(|which| Step::ServerIgnores { which }),
        3 => (which.clone(), size).prop_map(|(which, size)| Step::Reply { which, size }),
        2 => (which.clone(), any::<bool>()).prop_map(|(which, ok)| Step::Finish { which, ok }),
        1 => which.prop_map(|which| Step::Refuse { which }),
        8 => Just(Step::WriteClient),
        8 => Just(Step::WriteServer),
        8 => bytes.clone().prop_map(|bytes| Step::ToServer { bytes }),
        8 => bytes.prop_map(|bytes| Step::ToClient { bytes }),
        2 => (0_u64..20).prop_map(|millis| Step::Pass { millis }),
        1 => Just(Step::Drain),
    ];
    proptest::collection::vec(step, 0..200)
}

/// A pair under a random schedule, and what its callers have seen.
struct World {
    pair: Pair,
    client: Vec<StreamKey>,
    server: Vec<StreamKey>,
    /// How each of the client's calls ended.
    ended: HashMap<StreamKey, u32>,
    headed: Vec<StreamKey>,
}

impl World {
    fn pick(keys: &[StreamKey], which: usize) -> Option<StreamKey> {
        (!keys.is_empty()).then(|| keys[which % keys.len()])
    }

    #[expect(clippy::too_many_lines, reason = "one arm per kind of step")]
    fn take(&mut self, step: &Step) {
        let none = Metadata::new();
        match *step {
            Step::Open {
                size,
                streaming,
                millis,
            } => {
                let timeout = (millis > 0).then(|| Duration::from_millis(millis));
                self.client.extend(self.pair.open(1, size, !streaming, timeout));
            }
            Step::ClientSends { which, size } => {
                if let Some(key) = Self::pick(&self.client, which)
                    && matches!(self.pair.client.mux.poll_send_ready(key, &noop()), Poll::Ready(Ok(())))
                {
                    self.pair.client.mux.send(key, framed(size, 2), false);
                }
            }
            Step::ClientCloses { which } => {
                if let Some(key) = Self::pick(&self.client, which) {
                    self.pair.client.mux.send(key, Vec::new(), true);
                }
            }
            Step::ClientReads { which } => self.client_reads(which),
            Step::Cancel { which } => {
                if !self.client.is_empty() {
                    let key = self.client.swap_remove(which % self.client.len());
                    self.pair.client.mux.release_call(key);
                }
            }
            Step::ServerHead { which } => {
                if let Some(key) = Self::pick(&self.server, which)
                    && !self.headed.contains(&key)
                {
                    self.headed.push(key);
                    self.pair.server.mux.reply_head(key, &none);
                }
            }
            Step::ServerSends { which, size } => {
                if let Some(key) = Self::pick(&self.headed, which)
                    && matches!(self.pair.server.mux.poll_send_ready(key, &noop()), Poll::Ready(Ok(())))
                {
                    self.pair.server.mux.send(key, framed(size, 3), false);
                }
            }
            Step::ServerReads { which } => {
                if let Some(key) = Self::pick(&self.server, which)
                    && let Poll::Ready(Ok(Some(chunk))) = self.pair.server.mux.poll_chunk(key, &noop())
                {
                    assert!(messages(chunk).iter().flatten().all(|byte| *byte == 2));
                }
            }
            Step::ServerIgnores { which } => {
                if let Some(key) = Self::pick(&self.server, which) {
                    self.pair.server.mux.stop_reading(key);
                }
            }
            Step::Reply { which, size } => {
                if let Some(key) = Self::pick(&self.server, which)
                    && !self.headed.contains(&key)
                {
                    self.server.retain(|other| *other != key);
                    self.pair.reply(key, size);
                }
            }
            Step::Finish { which, ok } => {
                if let Some(key) = Self::pick(&self.server, which) {
                    self.server.retain(|other| *other != key);
                    self.headed.retain(|other| *other != key);
                    let status = Status::aborted("x");
                    self.pair.server.mux.finish_call(key, (!ok).then_some(&status), &none);
                }
            }
            Step::Refuse { which } => {
                if let Some(key) = Self::pick(&self.server, which) {
                    self.server.retain(|other| *other != key);
                    self.headed.retain(|other| *other != key);
                    self.pair.server.mux.refuse_call(key);
                }
            }
            Step::WriteClient => {
                self.pair.client.write_turn();
            }
            Step::WriteServer => {
                self.pair.server.write_turn();
            }
            Step::ToServer { bytes } => self.pair.deliver_to_server(bytes),
            Step::ToClient { bytes } => self.pair.deliver_to_client(bytes),
            Step::Pass { millis } => {
                self.pair.now += Duration::from_millis(millis);
                let now = self.pair.now;
                self.pair.client.mux.handle_timeout(now, &mut self.pair.client.events);
                self.pair.server.mux.handle_timeout(now, &mut self.pair.server.events);
            }
            Step::Drain => self.pair.server.mux.start_drain(self.pair.now),
        }
        let arrived: Vec<StreamKey> = self.pair.calls.drain(..).map(|call| call.key).collect();
        self.server.extend(arrived);
        let ended: Vec<StreamKey> = self.pair.ended.iter().map(|(key, _)| *key).collect();
        self.server.retain(|key| !ended.contains(key));
        self.headed.retain(|key| !ended.contains(key));
    }

    /// Reads one chunk as a caller would; notes the end, which must come once.
    fn client_reads(&mut self, which: usize) {
        let Some(key) = Self::pick(&self.client, which) else {
            return;
        };
        match self.pair.client.mux.poll_chunk(key, &noop()) {
            Poll::Pending => {}
            Poll::Ready(Ok(Some(chunk))) => {
                assert!(messages(chunk).iter().flatten().all(|byte| matches!(byte, 3 | 7)));
            }
            Poll::Ready(end) => {
                if let Err(error) = end {
                    assert!(
                        matches!(error, StreamError::DeadlineExceeded | StreamError::NotProcessed),
                        "nothing else ends a call here: {error}"
                    );
                }
                *self.ended.entry(key).or_default() += 1;
                self.client.retain(|other| *other != key);
                self.pair.client.mux.release_call(key);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever two honest sides do in whatever order: no connection error, no panic, every call ends once, and at rest all credit is back.
    #[test]
    fn credit_is_conserved_under_any_schedule(steps in steps(), windows in any::<bool>()) {
        let config = if windows { small_windows() } else { MuxConfig::default() };
        let mut world = World {
            pair: Pair::with(config.clone(), config),
            client: Vec::new(),
            server: Vec::new(),
            ended: HashMap::new(),
            headed: Vec::new(),
        };
        for step in &steps {
            world.take(step);
        }
        world.pair.run();
        world.take(&Step::Pass { millis: 0 });
        prop_assert_eq!((world.pair.client.mux.end(), world.pair.server.mux.end()), (None, None));
        world.pair.check_credit();
        // The server finishes what it has; the callers read to the end.
        for key in std::mem::take(&mut world.server) {
            world.pair.server.mux.finish_call(key, None, &Metadata::new());
        }
        for _ in 0..10_000 {
            world.pair.run();
            if world.client.is_empty() {
                break;
            }
            for which in 0..world.client.len() {
                world.client_reads(which);
            }
            world.take(&Step::Pass { millis: 10 });
            for key in std::mem::take(&mut world.server) {
                world.pair.server.mux.finish_call(key, None, &Metadata::new());
            }
        }
        // A deadline that passed at the client passes at the server a little later.
        world.pair.run();
        world.pair.advance(Duration::from_millis(60));
        prop_assert_eq!((world.pair.client.mux.end(), world.pair.server.mux.end()), (None, None));
        let held = world.pair.server.mux.open_streams();
        prop_assert_eq!((world.client.len(), world.pair.client.mux.open_streams(), held), (0, 0, 0));
        prop_assert!(world.ended.values().all(|times| *times == 1));
        world.pair.check_credit();
        prop_assert_eq!((world.pair.client.mux.assembling, world.pair.server.mux.assembling), (0, 0));
    }

    /// Deadlines fire at their instant, whatever else is open: never early, and at the first sweep that is due.
    #[test]
    fn deadlines_are_never_early_and_never_a_tick_late(millis in proptest::collection::vec(1_u64..200, 1..40), step in 1_u64..7) {
        let mut pair = Pair::ready();
        let start = pair.now;
        let mut keys = Vec::new();
        for after in &millis {
            keys.push((pair.open(1, 1, true, Some(Duration::from_millis(*after))).unwrap(), *after));
        }
        pair.run();
        while pair.now < start + Duration::from_millis(210) {
            let due = pair.client.mux.next_timeout();
            let earliest = keys.iter().map(|(_, after)| start + Duration::from_millis(*after)).min();
            prop_assert!(keys.is_empty() || due <= earliest, "the next sweep is no later than the next deadline");
            pair.now += Duration::from_millis(step);
            pair.client.mux.handle_timeout(pair.now, &mut pair.client.events);
            let passed = pair.now - start;
            keys.retain(|(key, after)| {
                let polled = pair.client.mux.poll_reply(*key, &noop());
                let expired = Duration::from_millis(*after) <= passed;
                assert_eq!(polled.is_ready(), expired, "{after} ms at {passed:?}");
                !expired
            });
        }
        prop_assert!(keys.is_empty());
    }
}

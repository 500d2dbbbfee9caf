//! How many calls a server works on at a time: no limit until calls stand in line, and then one that it finds by itself.
//!
//! Latency alone cannot tell a service that became slower from one whose calls wait for each other, for a lock, a pool, or a processor. So it takes two steps.
//!
//! 1. *Suspicion* (`baseline`). Calls take much longer than they did, many more are in flight, and not more are done. A service that answers after a second
//!    because it sleeps never comes under it, however many calls are in flight: all take as long as they always did, and more are done.
//! 2. A *limit*, and *probes* of it (`probe`). By Little's law a service works on `width = throughput x latency without a queue` calls at a time; the limit is
//!    that and twice as many again, more if latencies vary, so that it is not idle when a few short calls follow each other. Throughput is measured while there
//!    are enough calls. Latency without a queue is that of calls that began with few others in flight; where there are none because the limit is always
//!    reached, the limit is lowered for a moment to make some. Probes look at less than the width, so that one that was taken for too wide shrinks.
//!
//! A limit that nobody has reached for a while is forgotten.
//!
//! Not here: waiting for one's turn, and who is turned away first.
//! Source: BBR for the probes, Little's law; `benches/governance` has the scenarios that the constants were tuned by.

mod baseline;
mod probe;
mod sample;

use std::time::{Duration, Instant};

use baseline::{Baseline, Suspicion};
use probe::{Found, Probe};
use sample::{Sample, calls_for};

/// What of the width is still without a queue: less than all, so that a width that was taken for too large is found out.
const LOW_SHARE: f64 = 0.7;
/// The same as long as probes find less and less: what a limit began with may have been far too much.
const LOW_SHARE_UNSETTLED: f64 = 0.35;
/// Calls to measure the latency without a queue by: at least, at most, and else as many as it takes to know it to this error.
const LOW_MIN: f64 = 16.0;
const LOW_MAX: f64 = 64.0;
const LOW_ERROR: f64 = 0.12;
/// How much such a latency counts next to those before it: one that came about by itself, one of a probe. The first probe, and one that finds much less, count for all.
const STEP_BY_CHANCE: f64 = 0.2;
const STEP_BY_PROBE: f64 = 0.5;
const MUCH_LESS: f64 = 0.9;
/// What a probe can find at the least, next to what was thought before it: few calls may all be short.
const FALL_MAX: f64 = 0.5;
/// The same for the variation.
const VARIATION_STEP: f64 = 0.2;
/// Answers by which throughput is measured, and how much they count next to those before; the first ones for half.
const RATE_CALLS: u32 = 32;
const RATE_STEP: f64 = 0.1;
const RATE_STEP_FIRST: f64 = 0.5;
/// Calls above the width that the limit leaves room for, as a multiple of it, and at least so many: with fewer a service is idle now and then though there is
/// more to do, with more all wait for longer than they would have to.
const ROOM: f64 = 2.0;
const ROOM_MIN: f64 = 4.0;
/// The variation of latencies that this is meant for. Where they vary more there is more room, up to so many times as much.
const ROOM_VARIATION: f64 = 0.28;
const ROOM_TIMES_MAX: f64 = 2.5;
/// Probes are that far apart, and further if they take long: they cost up to a third of the throughput while they last.
const PROBE_EVERY: Duration = Duration::from_secs(2);
const PROBE_EVERY_TIMES: u32 = 50;
/// They are that much apart while they find less and less.
const PROBE_AGAIN_TIMES: u32 = 4;
/// Calls that have to be refused before a probe, and their share of those that were answered: where hardly any are, the limit does no harm.
const REFUSED_BEFORE_PROBE: u32 = 8;
const REFUSED_SHARE: f64 = 0.006;
/// A limit that was not reached for so long is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(10);

/// Decides whether one more call is worked on.
#[derive(Debug)]
pub struct Limiter {
    in_flight: u32,
    /// When that changed last.
    changed: Instant,
    baseline: Baseline,
    held: Option<Limited>,
    probes: u32,
}

/// A call that is worked on; to be given back with [`Limiter::finish`].
#[derive(Clone, Copy, Debug)]
#[must_use = "a call that is never finished is in flight for ever"]
pub struct Ticket {
    began: Instant,
    /// Calls in flight when it began, with itself.
    in_flight: u32,
    /// The probe that it belongs to.
    probe: Option<u32>,
}

/// What is known while there is a limit.
#[derive(Debug)]
struct Limited {
    /// Without a queue, in seconds.
    latency: f64,
    variation: f64,
    /// Seconds from answer to answer, while there are enough calls.
    interval: f64,
    is_rated: bool,
    is_probed: bool,
    /// What it is thought to work on at a time is about right.
    is_settled: bool,
    limit: u32,
    /// Calls that began with few in flight, by chance.
    low: Sample,
    low_began: Instant,
    /// Since when there have been enough calls, and answers since then.
    full: Option<(Instant, u32)>,
    probe: Option<Probe>,
    probe_next: Instant,
    /// Calls that were refused, and answered, since the latency was measured last.
    refused: u32,
    answered: u32,
    /// When the limit was reached last.
    reached: Instant,
}

impl Limiter {
    /// Without a limit.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            in_flight: 0,
            changed: now,
            baseline: Baseline::new(now),
            held: None,
            probes: 0,
        }
    }

    /// Calls that are worked on.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Calls that are worked on at most; `None` as long as there is no reason for a limit.
    #[must_use]
    pub fn limit(&self) -> Option<u32> {
        self.held.as_ref().map(|held| held.limit)
    }

    /// Takes one more call up, unless there are as many as there should be. Who waits may ask again whenever a call is over.
    pub fn admit(&mut self, now: Instant) -> Option<Ticket> {
        let mut probe = None;
        if let Some(held) = &mut self.held {
            if self.in_flight >= held.admitted_max() {
                held.reached = now;
                return None;
            }
            probe = held.probe.as_mut().and_then(|probe| probe.admit(now));
        }
        self.pass(now);
        self.in_flight += 1;
        Some(Ticket {
            began: now,
            in_flight: self.in_flight,
            probe,
        })
    }

    /// A call was refused for good.
    pub fn refuse(&mut self, now: Instant) {
        let Some(held) = &mut self.held else { return };
        held.refused = held.refused.saturating_add(1);
        // Where no call ends, nobody else looks.
        held.look_at_probe(now, self.baseline.latency_now());
        if held.probe.is_none() && held.wants_probe(now) {
            self.probes = self.probes.wrapping_add(1);
            held.full = None;
            held.probe = Some(Probe::new(
                self.probes,
                now,
                held.low_calls(),
                held.low_width(),
                held.latency,
                self.baseline.latency_now(),
            ));
        }
    }

    /// A call is over. How long it took counts, unless its caller lost interest, or nothing was done for it.
    pub fn finish(&mut self, ticket: Ticket, now: Instant, counts: bool) {
        self.pass(now);
        let was_in_flight = self.in_flight;
        self.in_flight = self.in_flight.saturating_sub(1);
        let latency = now.saturating_duration_since(ticket.began).as_secs_f64();
        if let Some(probe) = self.held.as_mut().and_then(|held| held.probe.as_mut()) {
            probe.finish(ticket.probe, ticket.began, counts.then_some(latency));
        }
        if !counts {
            return;
        }
        if self.held.is_none() && self.baseline.is_broken(self.in_flight, now) {
            self.baseline.forget(now);
        }
        self.baseline.note(latency, ticket.in_flight, now);
        match &mut self.held {
            None => self.held = self.baseline.suspicion(self.in_flight).map(|seen| Limited::new(&seen, now)),
            Some(held) => {
                held.answered = held.answered.saturating_add(1);
                held.note_rate(was_in_flight, now);
                held.note_latency(&ticket, latency, now, self.baseline.latency_now());
                if now.saturating_duration_since(held.reached) > FORGET_AFTER {
                    self.held = None;
                    self.baseline.forget(now);
                }
            }
        }
    }

    /// Time has passed with as many calls in flight as there are.
    fn pass(&mut self, now: Instant) {
        self.baseline.pass(self.in_flight, now.saturating_duration_since(self.changed));
        self.changed = now;
    }
}

impl Limited {
    fn new(suspicion: &Suspicion, now: Instant) -> Self {
        let mut limited = Self {
            latency: suspicion.latency,
            variation: suspicion.variation,
            interval: 1.0 / suspicion.rate.max(1e-9),
            is_rated: false,
            is_probed: false,
            is_settled: suspicion.is_sure,
            limit: 0,
            low: Sample::default(),
            low_began: now,
            full: None,
            probe: None,
            probe_next: now,
            refused: 0,
            answered: 0,
            reached: now,
        };
        limited.set_limit();
        limited
    }

    /// Calls that the service works on at a time; more of them wait for each other.
    fn width(&self) -> f64 {
        self.latency / self.interval
    }

    /// Calls of which none waits.
    fn low_width(&self) -> f64 {
        let share = if self.is_settled {
            LOW_SHARE
        } else {
            LOW_SHARE_UNSETTLED
        };
        (self.width() * share).max(1.0)
    }

    /// Calls that it takes to know their latency.
    fn low_calls(&self) -> u32 {
        whole(calls_for(self.variation, LOW_ERROR).clamp(LOW_MIN, LOW_MAX))
    }

    fn wants_probe(&self, now: Instant) -> bool {
        let refused = f64::from(self.refused);
        self.refused >= REFUSED_BEFORE_PROBE
            && refused >= REFUSED_SHARE * f64::from(self.answered)
            && now >= self.probe_next
    }

    /// Calls that may be in flight now.
    fn admitted_max(&self) -> u32 {
        match &self.probe {
            None => self.limit,
            Some(probe) if probe.is_admitting() => whole(self.low_width()),
            Some(_) => whole(self.width().max(1.0)),
        }
    }

    fn set_limit(&mut self) {
        let times = (1.0 + self.variation) / (1.0 + ROOM_VARIATION);
        let room = self.width() * ROOM * times.clamp(1.0, ROOM_TIMES_MAX);
        self.limit = whole((self.width() + room.max(ROOM_MIN)).ceil());
    }

    /// A call is over that was one of `in_flight`: throughput is measured while there are more calls than go without a queue.
    fn note_rate(&mut self, in_flight: u32, now: Instant) {
        if self.probe.is_some() || f64::from(in_flight) < self.low_width() {
            self.full = None;
            return;
        }
        let Some((since, answers)) = &mut self.full else {
            self.full = Some((now, 0));
            return;
        };
        *answers += 1;
        let span = now.saturating_duration_since(*since).as_secs_f64();
        if *answers >= RATE_CALLS && span > 0.0 {
            let step = if self.is_rated { RATE_STEP } else { RATE_STEP_FIRST };
            self.interval += (span / f64::from(*answers) - self.interval) * step;
            self.is_rated = true;
            self.full = Some((now, 0));
            self.set_limit();
        }
    }

    /// A call is over: its latency counts if it began with few others, by chance or in a probe.
    fn note_latency(&mut self, ticket: &Ticket, latency: f64, now: Instant, latency_now: f64) {
        if self.probe.is_some() {
            self.look_at_probe(now, latency_now);
            return;
        }
        if f64::from(ticket.in_flight) > self.low_width() {
            return;
        }
        if now.saturating_duration_since(self.low_began) > PROBE_EVERY {
            (self.low, self.low_began) = (Sample::default(), now);
        }
        self.low.add(latency);
        if self.low.count() >= self.low_calls() {
            let low = self.low;
            self.measured(&low, STEP_BY_CHANCE, now);
        }
    }

    /// Ends a probe that has found out what it can.
    fn look_at_probe(&mut self, now: Instant, latency_now: f64) {
        if let Some(found) = self.probe.as_ref().and_then(|probe| probe.found(now)) {
            self.probe = None;
            self.learn(&found, now, latency_now);
        }
    }

    fn learn(&mut self, found: &Found, now: Instant, latency_now: f64) {
        (self.refused, self.answered) = (0, 0);
        let Some(sample) = found.sample else {
            // So few calls were let in that hardly any came: more are worked on at a time than was thought.
            self.latency = (self.latency * 2.0).min(latency_now);
            self.probe_next = now + found.held * PROBE_AGAIN_TIMES;
            self.set_limit();
            return;
        };
        let is_much_less = sample.mean() < MUCH_LESS * self.latency;
        let pause = if is_much_less {
            found.held * PROBE_AGAIN_TIMES
        } else {
            (found.held * PROBE_EVERY_TIMES).clamp(PROBE_EVERY, FORGET_AFTER)
        };
        self.probe_next = now + pause;
        let step = if is_much_less || !self.is_probed {
            1.0
        } else {
            STEP_BY_PROBE
        };
        self.measured(&sample, step, now);
        (self.is_probed, self.is_settled) = (true, !is_much_less);
    }

    fn measured(&mut self, sample: &Sample, step: f64, now: Instant) {
        self.latency += (sample.mean().max(FALL_MAX * self.latency) - self.latency) * step;
        self.variation += (sample.variation() - self.variation) * VARIATION_STEP;
        (self.low, self.low_began) = (Sample::default(), now);
        self.set_limit();
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "what is out of range becomes the nearest that is not"
)]
fn whole(calls: f64) -> u32 {
    calls as u32
}

#[cfg(test)]
mod tests;

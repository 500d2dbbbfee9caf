//! How many calls a server works on at a time: no limit until calls stand in line, and then one that it finds by itself.
//!
//! Latency alone cannot tell a service that became slower from one whose calls wait for each other, for a lock, a pool, or a processor. So it takes two steps.
//!
//! 1. *Suspicion* (`baseline`). Calls take much longer than they did, many more are in flight, and not more are done. A service that answers after a second
//!    because it sleeps never comes under it, however many calls are in flight: all take as long as they always did, and more are done.
//! 2. A *limit* (`limiter`), and *probes* of it (`probe`). By Little's law a service works on `width = throughput x latency without a queue` calls at a time;
//!    the limit is that and twice as many again, more if latencies vary, so that it is not idle when a few short calls follow each other. Throughput is measured
//!    while there are enough calls. Latency without a queue is that of calls that began with few others in flight; where there are none because the limit is
//!    always reached, it is lowered for a moment to make some. Probes look at less than the width, so that one that was taken for too wide shrinks.
//!
//! Each method has a limit of its own, because a method that waits for something else for half a minute would make the others look congested. Methods that have
//! a limit may wait for the same thing, and so are probed at once: one that was probed alone would see the line that the others make.
//!
//! A limit is given up when nobody has reached it for a while, and when no call comes back: then what is known of the service tells nothing about it any more,
//! unless it answers as many calls as before after all.
//!
//! Where most calls are given up before they are answered, there is no throughput to go by. Then the limit of better times is on trial for a moment: it stays if calls
//! come back, and is tried again with half the width later and later if none does. Calls that take long before they are given up wait for something else.
//!
//! Those that are one too many stand in a [`line`]. A limit that is too low shows in them: by how many did not get their turn within a moment, whether they got it later or not.
//!
//! Not here: who tells them of their turn.
//! Source: BBR for the probes, Little's law; `benches/governance` has the scenarios that the constants were tuned by.

mod baseline;
mod limiter;
pub(crate) mod line;
mod probe;
mod sample;

use std::time::{Duration, Instant};

use limiter::{Begun, Limiter};

/// A probe waits for methods that have so much of the throughput of the one with the most.
const LEADER_SHARE: f64 = 0.25;

/// Decides whether one more call is worked on, for each of some methods.
#[derive(Debug)]
pub struct Limiters {
    methods: Box<[Limiter]>,
    /// The methods whose probes end the probes of all: those with many calls. Empty if nothing is probed.
    leaders: Vec<usize>,
    probes: u32,
    /// Not before then is the next.
    probe_next: Instant,
}

/// A call that is worked on; to be given back with [`Limiters::finish`].
#[derive(Debug)]
#[must_use = "a call that is never finished is in flight for ever"]
pub struct Ticket {
    method: usize,
    begun: Begun,
}

impl Ticket {
    /// The call's method.
    #[must_use]
    pub fn method(&self) -> usize {
        self.method
    }
}

/// How a call came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ending {
    /// It was answered.
    Answered,
    /// Its caller gave up, or its deadline passed: it would have taken at least as long.
    GivenUp,
    /// That tells nothing: nothing was done for it.
    Neutral,
}

impl Limiters {
    /// For so many methods, without a limit.
    #[must_use]
    pub fn new(methods: usize, now: Instant) -> Self {
        Self {
            methods: (0..methods).map(|_| Limiter::new(now)).collect(),
            leaders: Vec::new(),
            probes: 0,
            probe_next: now,
        }
    }

    /// Calls of a method that are worked on.
    ///
    /// # Panics
    /// If there are fewer methods; so do the others.
    #[must_use]
    pub fn in_flight(&self, method: usize) -> u32 {
        self.methods[method].in_flight()
    }

    /// Calls of a method that are worked on at most; `None` as long as there is no reason for a limit.
    #[must_use]
    pub fn limit(&self, method: usize) -> Option<u32> {
        self.methods[method].limit()
    }

    /// Answers of a method in a second, if it has a limit that is more than a trial.
    #[must_use]
    pub fn rate(&self, method: usize) -> Option<f64> {
        self.methods[method].rate()
    }

    /// Takes one more call up, unless there are as many as there should be. Who waits may ask again whenever a call is over.
    pub fn admit(&mut self, method: usize, now: Instant) -> Option<Ticket> {
        if self.methods[method].is_full(now) {
            // It may be full because of a probe that nobody has looked at for long.
            self.look_at_probes(now);
            if self.methods[method].is_full(now) {
                return None;
            }
        }
        Some(self.take_up(method, now))
    }

    /// Takes one more call up that has begun already.
    pub fn take_up(&mut self, method: usize, now: Instant) -> Ticket {
        let is_low = self.methods[method].limit().is_some() && self.is_low(now);
        let begun = self.methods[method].begin(now, is_low);
        Ticket { method, begun }
    }

    /// A call did not get its turn within a moment; it may still get it.
    pub fn press(&mut self, method: usize, now: Instant) {
        // Where no call ends, nobody else looks.
        self.look_at_probes(now);
        if self.methods[method].press(now)
            && self.leaders.is_empty()
            && (now >= self.probe_next || self.methods[method].is_another())
        {
            self.probe(now);
        }
    }

    /// A call was refused for good.
    pub fn refuse(&mut self, method: usize) {
        self.methods[method].refuse();
    }

    /// A call is over.
    pub fn finish(&mut self, ticket: Ticket, now: Instant, ending: Ending) {
        let Ticket { method, begun } = ticket;
        self.methods[method].finish(&begun, now, ending);
        self.look_at_probes(now);
    }

    /// Gives a method's limit up if nobody has reached it for long, which is otherwise done when a call of it is over.
    pub fn forget_unreached(&mut self, method: usize, now: Instant) {
        self.methods[method].forget_unreached(now);
    }

    /// Begins a probe of all methods that have a limit.
    fn probe(&mut self, now: Instant) {
        self.probes = self.probes.wrapping_add(1);
        for one in &mut self.methods {
            one.forget_unreached(now);
            one.probe(self.probes, now);
        }
        // Those with few calls would take too long.
        let rates: Vec<f64> = self.methods.iter().map(|one| one.rate().unwrap_or_default()).collect();
        let highest = rates.iter().copied().fold(0.0, f64::max);
        let has_many = |one: &usize| rates[*one] > 0.0 && rates[*one] >= highest * LEADER_SHARE;
        self.leaders = (0..rates.len()).filter(has_many).collect();
    }

    /// Ends all probes when those that have many calls are over.
    fn look_at_probes(&mut self, now: Instant) {
        if !self.leaders.is_empty() && self.leaders.iter().all(|&leader| self.methods[leader].is_probe_over(now)) {
            let pauses = self.methods.iter_mut().map(|one| one.end_probe(now));
            let pauses: Vec<Option<Duration>> = pauses.collect();
            // Who has few calls waits for those that have many.
            let pause = self.leaders.drain(..).filter_map(|leader| pauses[leader]).min();
            self.probe_next = now + pause.unwrap_or_default();
            self.share_by_demand();
        }
    }

    /// Tells each method what it would work on if all of them shared by what is offered to them.
    fn share_by_demand(&mut self) {
        let known: Vec<_> = self.methods.iter().map(Limiter::width_and_offer).collect();
        let (width, offer) = known.iter().flatten().fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        for (method, one) in self.methods.iter_mut().zip(known) {
            if let Some((_, offered)) = one.filter(|_| offer > 0.0) {
                method.demand(width * offered / offer);
            }
        }
    }

    /// Whether so few calls are in flight, with one more, that none waits for another.
    fn is_low(&self, now: Instant) -> bool {
        let held = || self.methods.iter().filter_map(|one| Some((one.in_flight(), one.low_width(now)?)));
        let in_flight: u32 = held().map(|(in_flight, _)| in_flight).sum();
        let low: f64 = held().map(|(_, low)| low).sum();
        f64::from(in_flight + 1) <= low
    }
}

#[cfg(test)]
mod tests;

//! One method: whether its calls stand in line, how many the service works on at a time, and so how many may be in flight.

use std::time::{Duration, Instant};

use super::Ending;
use super::baseline::{Baseline, Suspicion};
use super::probe::{Found, Plan, Probe};
use super::sample::{Sample, calls_for};

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
/// So does one that finds so many times as much: the limit is too low then, which is the worse mistake.
const MUCH_MORE: f64 = 2.0;
/// What is left of the throughput since the last probe when it is time for another one.
const FALLEN: f64 = 0.7;
/// What a probe can find at the least, next to what was thought before it: few calls may all be short.
const FALL_MAX: f64 = 0.5;
/// By how much what is thought rises after a probe of which hardly any call came back: all at once would be too much where there is a long line, and its drain took
/// too long.
const UNKNOWN_RISE: f64 = 8.0;
/// How much a new variation of latencies counts next to those before it.
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
/// What a method is given of its share of what is offered, in place of what it makes of its own limit: between methods that wait for the same thing any
/// division keeps itself up, and so would change by chance.
const DEMAND_SHARE: f64 = 0.2;
/// Probes are that far apart, or so many times what they take while few calls are let in, but no further than a limit is kept: they cost up to a third of the
/// throughput for that time, and two thirds of it as long as probes find less and less.
const PROBE_EVERY: Duration = Duration::from_secs(2);
const PROBE_EVERY_TIMES: u32 = 100;
/// At least so many times, however far that is: where calls take seconds, so do probes.
const PROBE_EVERY_TIMES_SLOW: u32 = 10;
/// So many times what they take is between them as long as they find less and less.
const PROBE_AGAIN_TIMES: u32 = 4;
/// Calls that have to wait for more than a moment before a probe, and their share of those that were answered: where hardly any do, the limit does no harm.
const PRESSED_BEFORE_PROBE: u32 = 8;
const PRESSED_SHARE: f64 = 0.006;
/// A limit that was not reached for so long is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(10);
/// A service that stopped and then answers so many times as many calls as before, at least and at most, goes on as before.
const GOES_ON: f64 = 0.7;
const GOES_ON_MAX: f64 = 1.5;
/// How long after one that failed the next trial begins, each with half the width of the one before and after twice the time, for so many times: calls that nearly always end
/// by their deadlines, as of somebody who waits for news, would be kept from waiting by each.
const TRIAL_EVERY: Duration = FORGET_AFTER;
const TRIAL_HALVINGS: u32 = 6;
const TRIAL_DOUBLINGS: u32 = 6;
/// Calls that are given up after more than that, in seconds, are of the same kind: an overload of calls with so much time shows long before they are given up.
const TRIAL_LATENCY_MAX: f64 = 5.0;
/// How long a trial takes, as a multiple of how long calls waited that were given up: those that are in flight have to go first.
const TRIAL_TIMES: f64 = 2.0;
/// And at least.
const TRIAL_MIN: Duration = Duration::from_millis(250);
/// How far what is offered may change a width, either way: methods need not wait for the same thing.
const DEMAND_TIMES_MAX: f64 = 2.0;

/// The calls of one method.
#[derive(Debug)]
pub(super) struct Limiter {
    in_flight: u32,
    /// When that changed last.
    changed: Instant,
    baseline: Baseline,
    held: Option<Limited>,
    stopped: Option<Stopped>,
    trials: Trials,
}

/// A limit that was given up because no call came back: the service may go on as before, of which those tell that come back then.
#[derive(Debug)]
struct Stopped {
    held: Limited,
    at: Instant,
    /// Answers since then.
    answers: u32,
    /// When the last lot of them had come; the first one was under way.
    since: Option<Instant>,
}

/// Limits on trial, because all calls were given up: they may stand in line for each other, or for something that does not come whoever waits.
#[derive(Debug)]
struct Trials {
    failed: u32,
    /// Not before then is the next.
    next: Instant,
}

/// What is kept of a call while it is worked on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    at: Instant,
    /// Calls in flight when it began, with itself.
    in_flight: u32,
    /// So few were in flight, of all methods that have a limit, that it waits for nobody.
    is_low: bool,
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
    /// The same after the last probe.
    interval_probed: f64,
    is_rated: bool,
    is_probed: bool,
    /// What it is thought to work on at a time is about right.
    is_settled: bool,
    limit: u32,
    /// The width that it would have by what is offered to it.
    demanded: Option<f64>,
    /// Calls that began with few in flight, by chance.
    low: Sample,
    low_began: Instant,
    /// Since when there have been enough calls, and answers since then.
    full: Option<(Instant, u32)>,
    probe: Option<Probe>,
    /// Calls that did not get their turn within a moment, that were refused, and that were answered, since the last probe was over.
    pressed: u32,
    refused: u32,
    answered: u32,
    /// When the limit was reached last.
    reached: Instant,
    /// Since when it is on trial, and until when a call that began in it has to be answered.
    trial: Option<(Instant, Instant)>,
}

impl Limiter {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            in_flight: 0,
            changed: now,
            baseline: Baseline::new(now),
            held: None,
            stopped: None,
            trials: Trials { failed: 0, next: now },
        }
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    pub(super) fn limit(&self) -> Option<u32> {
        self.held.as_ref().map(|held| held.limit)
    }

    /// Calls that wait for nobody, if there is a limit and somebody reaches it.
    pub(super) fn low_width(&self, now: Instant) -> Option<f64> {
        self.held.as_ref().filter(|held| held.is_reached(now)).map(Limited::low_width)
    }

    /// Gives the limit up if nobody has reached it for long.
    pub(super) fn forget_unreached(&mut self, now: Instant) {
        if self.held.as_ref().is_some_and(|held| !held.is_reached(now)) {
            self.open();
        }
    }

    /// If there is a limit: calls that are worked on at a time, and calls at a time that were offered since the last probe, on a scale of its own.
    pub(super) fn width_and_offer(&self) -> Option<(f64, f64)> {
        let held = self.held.as_ref()?;
        Some((
            held.width(),
            f64::from(held.answered.saturating_add(held.refused)) * held.latency,
        ))
    }

    /// By what is offered to it, it would work on so many calls at a time.
    pub(super) fn demand(&mut self, width: f64) {
        if let Some(held) = &mut self.held {
            (held.pressed, held.refused, held.answered) = (0, 0, 0);
            let own = held.width();
            held.demanded = Some(width.clamp(own / DEMAND_TIMES_MAX, own * DEMAND_TIMES_MAX));
            held.set_limit();
        }
    }

    /// Answers in a second, if there is a limit that is more than a trial.
    pub(super) fn rate(&self) -> Option<f64> {
        self.held.as_ref().filter(|held| held.trial.is_none()).map(|held| 1.0 / held.interval)
    }

    /// Whether as many calls are in flight as there should be, which is then noted.
    pub(super) fn is_full(&mut self, now: Instant) -> bool {
        let Some(held) = &mut self.held else { return false };
        let is_full = self.in_flight >= held.admitted_max();
        if is_full {
            held.reached = now;
        }
        is_full
    }

    /// Takes a call up; `is_low` if few are in flight.
    pub(super) fn begin(&mut self, now: Instant, is_low: bool) -> Begun {
        self.pass(now);
        self.in_flight += 1;
        let in_flight = self.in_flight;
        // One that began without asking may be one too many for a probe.
        let held = self.held.as_mut().filter(|held| in_flight <= held.admitted_max());
        let probe = held.and_then(|held| held.probe.as_mut());
        Begun {
            at: now,
            in_flight,
            is_low,
            probe: probe.and_then(|probe| probe.admit(now)),
        }
    }

    /// A call was refused for good.
    pub(super) fn refuse(&mut self) {
        if let Some(held) = &mut self.held {
            held.refused = held.refused.saturating_add(1);
        }
    }

    /// A call did not get its turn within a moment. Returns whether it is time for a probe.
    pub(super) fn press(&mut self, now: Instant) -> bool {
        self.end_trial(now);
        let Some(held) = &mut self.held else { return false };
        held.pressed = held.pressed.saturating_add(1);
        if held.trial.is_some() {
            return false;
        }
        // Calls are in flight, and none comes back: what is known of them tells nothing about these.
        if self.baseline.is_silent(self.in_flight, held.limit, held.latency, now) {
            let held = self.held.take();
            self.open();
            self.stopped = held.map(|held| Stopped::new(held, now));
            return false;
        }
        held.wants_probe()
    }

    /// Whether it answers much less than when it was probed last, so that what was found then does not hold.
    pub(super) fn is_another(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.interval * FALLEN > held.interval_probed)
    }

    /// Begins the probe `id`, if there is a limit.
    pub(super) fn probe(&mut self, id: u32, now: Instant) {
        let latency_before = self.baseline.latency_now();
        if let Some(held) = self.held.as_mut().filter(|held| held.trial.is_none()) {
            held.full = None;
            let plan = Plan {
                calls: held.low_calls(),
                width: held.low_width(),
                latency: held.latency,
                latency_before,
            };
            held.probe = Some(Probe::new(id, now, &plan));
        }
    }

    /// Whether its probe has found out what it can, or there is none.
    pub(super) fn is_probe_over(&self, now: Instant) -> bool {
        let probe = self.held.as_ref().and_then(|held| held.probe.as_ref());
        probe.is_none_or(|probe| probe.is_over(now))
    }

    /// Ends its probe and learns from it; returns after how long another one makes sense. One that is cut short, because another method's is over, may have found
    /// nothing: half a cohort lacks those that take long.
    pub(super) fn end_probe(&mut self, now: Instant) -> Option<Duration> {
        let latency_now = self.baseline.latency_now();
        let held = self.held.as_mut()?;
        let probe = held.probe.take()?;
        probe.is_over(now).then(|| held.learn(&probe.found(now), now, latency_now))
    }

    /// A call is over.
    pub(super) fn finish(&mut self, begun: &Begun, now: Instant, ending: Ending) {
        self.pass(now);
        let was_in_flight = self.in_flight;
        self.in_flight = self.in_flight.saturating_sub(1);
        let latency = now.saturating_duration_since(begun.at).as_secs_f64();
        let counts = match ending {
            Ending::Answered => true,
            // It would have taken longer still.
            Ending::GivenUp => self.latency_known().is_some_and(|known| latency > known),
            Ending::Neutral => false,
        };
        if let Some(probe) = self.held.as_mut().and_then(|held| held.probe.as_mut()) {
            match counts {
                true => probe.finish(begun.probe, begun.at, latency),
                false => probe.take_back(begun.probe, begun.at),
            }
        }
        if !counts {
            self.end_trial(now);
            self.forget_unreached(now);
            return;
        }
        let is_answered = ending == Ending::Answered;
        if is_answered && self.held.is_none() && self.baseline.is_broken(self.in_flight, now) {
            self.baseline.forget();
        }
        self.baseline.note(latency, begun.in_flight, now, is_answered);
        if is_answered && self.held.is_none() && now >= self.trials.next && !self.baseline.is_given_up() {
            self.trials.failed = 0;
        }
        self.end_trial(now);
        if is_answered && self.held.is_none() {
            self.go_on(now);
        }
        let Some(held) = &mut self.held else {
            self.suspect(now);
            return;
        };
        if is_answered && held.trial.is_some_and(|(since, _)| begun.at >= since) {
            held.trial = None;
            self.trials.failed = 0;
        }
        if is_answered {
            held.answered = held.answered.saturating_add(1);
            held.note_rate(was_in_flight, now);
        }
        if begun.is_low && held.probe.is_none() {
            held.note_low(latency, now);
        }
        self.forget_unreached(now);
    }

    /// Takes the limit up again that there was before the service stopped, if it answers as many calls as then.
    fn go_on(&mut self, now: Instant) {
        let Some(stopped) = &mut self.stopped else { return };
        stopped.answers += 1;
        if stopped.answers < RATE_CALLS {
            return;
        }
        let span = stopped.since.map(|since| now.saturating_duration_since(since).as_secs_f64());
        (stopped.answers, stopped.since) = (0, Some(now));
        let Some(span) = span else { return };
        let times = f64::from(RATE_CALLS) * stopped.held.interval / span.max(1e-9);
        if times >= GOES_ON {
            // What answers more than it could is another service, whose calls do not stand in line.
            let stopped = self.stopped.take().filter(|_| times <= GOES_ON_MAX);
            self.held = stopped.map(|stopped| stopped.held.again(now));
        } else if now.saturating_duration_since(stopped.at) > FORGET_AFTER {
            self.stopped = None;
        }
    }

    /// Sets a limit if calls seem to stand in line.
    fn suspect(&mut self, now: Instant) {
        let Some(mut seen) = self.baseline.suspicion(self.in_flight, now) else {
            return;
        };
        if !seen.is_collapse {
            self.held = Some(Limited::new(&seen, now));
            return;
        }
        if now < self.trials.next || self.baseline.latency_now() > TRIAL_LATENCY_MAX {
            return;
        }
        seen.rate /= f64::from(1_u32 << self.trials.failed.min(TRIAL_HALVINGS));
        let mut limited = Limited::new(&seen, now);
        let lasts = Duration::try_from_secs_f64(self.baseline.latency_now() * TRIAL_TIMES).unwrap_or(TRIAL_EVERY);
        limited.trial = Some((now, now + lasts.clamp(TRIAL_MIN, TRIAL_EVERY)));
        self.held = Some(limited);
    }

    /// Gives a limit up that has been on trial for as long as it may, without an answer.
    fn end_trial(&mut self, now: Instant) {
        let trial = self.held.as_ref().and_then(|held| held.trial);
        if trial.is_some_and(|(_, until)| now >= until) {
            self.held = None;
            self.trials.failed = self.trials.failed.saturating_add(1);
            self.trials.next = now + TRIAL_EVERY * 2_u32.pow((self.trials.failed - 1).min(TRIAL_DOUBLINGS));
        }
    }

    /// How long calls take that wait for nobody, as far as that is known.
    fn latency_known(&self) -> Option<f64> {
        match &self.held {
            Some(held) => Some(held.latency),
            None => self.baseline.latency_before(),
        }
    }

    /// There is no limit any more, and nothing is known.
    fn open(&mut self) {
        (self.held, self.stopped) = (None, None);
        self.baseline.forget();
    }

    /// Time has passed with as many calls in flight as there are.
    fn pass(&mut self, now: Instant) {
        self.baseline.pass(self.in_flight, now.saturating_duration_since(self.changed), now);
        // Who looked at the clock first need not come first.
        self.changed = self.changed.max(now);
    }
}

impl Stopped {
    fn new(held: Limited, at: Instant) -> Self {
        Self {
            held,
            at,
            answers: 0,
            since: None,
        }
    }
}

impl Limited {
    /// The same after a while.
    fn again(mut self, now: Instant) -> Self {
        (self.probe, self.full) = (None, None);
        (self.pressed, self.refused, self.answered) = (0, 0, 0);
        (self.low, self.low_began, self.reached) = (Sample::default(), now, now);
        self
    }

    fn new(suspicion: &Suspicion, now: Instant) -> Self {
        let mut limited = Self {
            latency: suspicion.latency,
            variation: suspicion.variation,
            interval: 1.0 / suspicion.rate.max(1e-9),
            interval_probed: f64::INFINITY,
            is_rated: false,
            is_probed: false,
            is_settled: suspicion.is_sure,
            limit: 0,
            demanded: None,
            low: Sample::default(),
            low_began: now,
            full: None,
            probe: None,
            pressed: 0,
            refused: 0,
            answered: 0,
            reached: now,
            trial: None,
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

    fn is_reached(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.reached) <= FORGET_AFTER
    }

    fn wants_probe(&self) -> bool {
        let pressed = f64::from(self.pressed);
        self.probe.is_none()
            && self.pressed >= PRESSED_BEFORE_PROBE
            && pressed >= PRESSED_SHARE * f64::from(self.answered)
    }

    /// Calls that may be in flight now.
    fn admitted_max(&self) -> u32 {
        match &self.probe {
            None => self.limit,
            Some(probe) if probe.is_admitting() => whole(self.low_width().round()),
            Some(_) => whole(self.width().max(1.0).round()),
        }
    }

    fn set_limit(&mut self) {
        let times = (1.0 + self.variation) / (1.0 + ROOM_VARIATION);
        let own = self.width();
        let width = own + (self.demanded.unwrap_or(own) - own) * DEMAND_SHARE;
        let room = (width * ROOM).max(ROOM_MIN) * times.clamp(1.0, ROOM_TIMES_MAX);
        self.limit = whole((width + room).ceil());
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

    /// A call that began with few others, by chance, took so long.
    fn note_low(&mut self, latency: f64, now: Instant) {
        if now.saturating_duration_since(self.low_began) > PROBE_EVERY {
            (self.low, self.low_began) = (Sample::default(), now);
        }
        self.low.add(latency);
        if self.low.count() >= self.low_calls() {
            let low = self.low;
            self.measured(&low, STEP_BY_CHANCE, now);
        }
    }

    /// A probe is over.
    fn learn(&mut self, found: &Found, now: Instant, latency_now: f64) -> Duration {
        let again = (found.held * PROBE_AGAIN_TIMES).min(FORGET_AFTER);
        let Some(sample) = found.sample else {
            // So few calls were let in that hardly any came back: they may take so long by themselves.
            self.latency = (self.latency * UNKNOWN_RISE).min(latency_now);
            self.set_limit();
            return again;
        };
        let is_much_less = sample.mean() < MUCH_LESS * self.latency;
        let step = if is_much_less || !self.is_probed {
            1.0
        } else {
            STEP_BY_PROBE
        };
        let is_much_more = sample.mean() > MUCH_MORE * self.latency;
        self.measured(&sample, if is_much_more { 1.0 } else { step }, now);
        self.interval_probed = self.interval;
        (self.is_probed, self.is_settled) = (true, !is_much_less);
        if is_much_less {
            again
        } else {
            let usual = (found.held * PROBE_EVERY_TIMES).clamp(PROBE_EVERY, FORGET_AFTER);
            usual.max(found.held * PROBE_EVERY_TIMES_SLOW)
        }
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

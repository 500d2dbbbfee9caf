//! A limiter behind which a service works on so many calls at a time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use super::{Ending, Limiters, Ticket};

const MS: Duration = Duration::from_millis(1);

/// Workers that take one call after the other, and the line before them.
struct Service {
    limiter: Limiters,
    now: Instant,
    workers: usize,
    takes: Duration,
    busy: BinaryHeap<Reverse<(Instant, usize)>>,
    tickets: Vec<Option<Ticket>>,
    line: VecDeque<usize>,
    refused: u32,
}

impl Service {
    fn new(workers: usize, takes: Duration) -> Self {
        let now = crate::time::now();
        Self {
            limiter: Limiters::new(1, now),
            now,
            workers,
            takes,
            busy: BinaryHeap::new(),
            tickets: Vec::new(),
            line: VecDeque::new(),
            refused: 0,
        }
    }

    /// Offers a call every `gap`, for as long.
    fn offer(&mut self, gap: Duration, lasting: Duration) {
        let end = self.now + lasting;
        while self.now < end {
            self.pass(gap);
            match self.limiter.admit(0, self.now) {
                Some(ticket) => {
                    self.tickets.push(Some(ticket));
                    self.line.push_back(self.tickets.len() - 1);
                    self.begin();
                }
                None => {
                    self.limiter.press(0, self.now);
                    self.limiter.refuse(0);
                    self.refused += 1;
                }
            }
        }
    }

    fn begin(&mut self) {
        while self.busy.len() < self.workers {
            let Some(call) = self.line.pop_front() else { return };
            // Not all are alike, and each run is the same.
            let takes = self.takes.mul_f64(0.75 + (call * 7 % 11) as f64 / 20.0);
            self.busy.push(Reverse((self.now + takes, call)));
        }
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(&Reverse((at, call))) = self.busy.peek().filter(|next| next.0.0 <= until) {
            self.busy.pop();
            self.now = at;
            let ticket = self.tickets[call].take().unwrap();
            self.limiter.finish(ticket, at, Ending::Answered);
            self.begin();
        }
        self.now = until;
    }
}

#[test]
fn calls_that_wait_for_nobody_are_never_limited() {
    let mut service = Service::new(usize::MAX, Duration::from_secs(1));
    service.offer(MS / 10, Duration::from_secs(4));
    assert!(service.limiter.in_flight(0) > 9_000, "{}", service.limiter.in_flight(0));
    assert_eq!((service.refused, service.limiter.limit(0)), (0, None));
    // Nor as it gets slower, for reasons of its own.
    service.takes *= 20;
    service.offer(MS, Duration::from_secs(100));
    assert_eq!((service.refused, service.limiter.limit(0)), (0, None));
}

#[test]
fn a_line_leads_to_a_limit_of_about_three_times_what_is_worked_on_at_a_time() {
    for workers in [4, 16, 64] {
        let mut service = Service::new(workers, 10 * MS);
        let gap = |load: f64| (10 * MS).div_f64(load * workers as f64);
        service.offer(gap(0.5), Duration::from_secs(2));
        assert_eq!(service.limiter.limit(0), None, "{workers} workers");
        service.offer(gap(3.0), Duration::from_secs(20));
        let per_worker = f64::from(service.limiter.limit(0).unwrap()) / workers as f64;
        assert!(
            (2.0..4.5).contains(&per_worker),
            "{workers} workers: {per_worker} calls for each"
        );
        // What is refused is what is too much, and hardly more.
        let offered = (service.tickets.len() as f64) + f64::from(service.refused);
        let answered = service.tickets.len() as f64 / (workers as f64 * 21.0 * 100.0);
        assert!(
            (0.97..1.1).contains(&answered),
            "{workers} workers: {answered} of the capacity, {offered} offered"
        );
    }
}

#[test]
fn a_limit_that_nobody_reaches_is_forgotten() {
    let mut service = Service::new(16, 10 * MS);
    service.offer(MS, Duration::from_secs(2));
    service.offer(MS / 5, Duration::from_secs(3));
    assert!(service.limiter.limit(0).is_some());
    service.offer(2 * MS, Duration::from_secs(9));
    assert!(service.limiter.limit(0).is_some(), "it may be needed again soon");
    service.offer(2 * MS, Duration::from_secs(3));
    assert_eq!(service.limiter.limit(0), None);
}

#[test]
fn where_no_call_comes_back_the_limit_is_given_up() {
    let mut service = Service::new(16, 10 * MS);
    service.offer(MS, Duration::from_secs(2));
    service.offer(MS / 5, Duration::from_secs(1));
    assert!(service.limiter.limit(0).is_some(), "it is overloaded");
    // Whoever works now never comes back, and the others wait for them.
    service.busy.clear();
    service.workers = 0;
    let refused = service.refused;
    service.offer(MS, Duration::from_secs(5));
    assert_eq!(service.limiter.limit(0), None);
    let refused = service.refused - refused;
    assert!((10..500).contains(&refused), "{refused} of 5,000");
}

#[test]
fn calls_that_wait_for_something_else_do_not_keep_others_out() {
    let mut service = Service::new(16, 10 * MS);
    service.offer(MS, Duration::from_secs(2));
    // As many as would be too many if they stood in line.
    let _parked: Vec<Ticket> = (0..200).map(|_| service.limiter.take_up(0, service.now)).collect();
    service.offer(MS, Duration::from_secs(30));
    assert_eq!(service.limiter.limit(0), None);
    assert_eq!(service.refused, 0);
}

#[test]
fn what_tells_nothing_gives_its_place_back_and_changes_nothing() {
    let now = crate::time::now();
    let mut limiter = Limiters::new(1, now);
    for round in 0..1_000_u32 {
        let now = now + MS * round;
        let ticket = limiter.admit(0, now).expect("there is no limit");
        limiter.finish(ticket, now + Duration::from_secs(u64::from(round)), Ending::Neutral);
    }
    assert_eq!((limiter.in_flight(0), limiter.limit(0)), (0, None));
}

#[test]
fn idle_time_is_no_measure_of_what_can_be_done() {
    let mut service = Service::new(16, 10 * MS);
    service.pass(Duration::from_secs(3_600));
    service.offer(MS, Duration::from_secs(1));
    service.pass(Duration::from_secs(3_600));
    service.offer(MS / 5, Duration::from_secs(2));
    assert!(service.limiter.limit(0).is_some());
    assert!(service.limiter.in_flight(0) < 150, "{}", service.limiter.in_flight(0));
}

#[test]
fn a_burst_after_a_pause_does_not_lift_the_limit() {
    let mut service = Service::new(16, 10 * MS);
    service.offer(MS, Duration::from_secs(2));
    service.offer(MS / 5, Duration::from_secs(2));
    for _ in 0..8 {
        service.pass(Duration::from_secs(1));
        service.offer(MS / 20, 50 * MS);
        assert!(service.limiter.limit(0).is_some());
    }
    assert!(service.refused > 0);
}

#[test]
fn calls_that_are_given_up_are_as_telling_as_late_answers() {
    let now = crate::time::now();
    let mut limiters = Limiters::new(1, now);
    let tickets =
        |limiters: &mut Limiters, count, now| -> Vec<Ticket> { (0..count).map(|_| limiters.take_up(0, now)).collect() };
    let mut at = now;
    for _ in 0..50 {
        for ticket in tickets(&mut limiters, 4, at) {
            limiters.finish(ticket, at + 10 * MS, Ending::Answered);
        }
        at += 10 * MS;
    }
    // Nobody is answered any more, and all give up after five times what it took.
    let mut waiting: VecDeque<(Instant, Ticket)> = VecDeque::new();
    for _ in 0..1_000 {
        at += MS;
        while let Some((begun, ticket)) = waiting.pop_front() {
            if at < begun + 50 * MS {
                waiting.push_front((begun, ticket));
                break;
            }
            limiters.finish(ticket, at, Ending::GivenUp);
        }
        if let Some(ticket) = limiters.admit(0, at) {
            waiting.push_back((at, ticket));
        }
    }
    assert!(limiters.limit(0).is_some());
}

/// Sixteen workers with a line before them, of calls that are given up after 250 ms: it is the head of the line that is worked on, too late.
#[test]
fn a_flood_from_the_first_call_on_gets_a_limit() {
    const DEADLINE: Duration = Duration::from_millis(250);
    let start = crate::time::now();
    let mut limiters = Limiters::new(1, start);
    let mut line: VecDeque<(Instant, Ticket)> = VecDeque::new();
    let mut worked_on: VecDeque<(Instant, Option<(Instant, Ticket)>)> = VecDeque::new();
    let mut answered = 0;
    for step in 0..5_000_u32 {
        let now = start + Duration::from_micros(625) * step;
        for _ in 0..10 {
            match limiters.admit(0, now) {
                Some(ticket) => line.push_back((now, ticket)),
                None => {
                    limiters.press(0, now);
                    limiters.refuse(0);
                }
            }
        }
        while worked_on.front().is_some_and(|(begun, _)| now >= *begun + 10 * MS) {
            if let Some((_, Some((_, ticket)))) = worked_on.pop_front() {
                limiters.finish(ticket, now, Ending::Answered);
                answered += u32::from(step >= 4_000);
            }
        }
        for (_, call) in &mut worked_on {
            if let Some((_, ticket)) = call.take_if(|(came, _)| now >= *came + DEADLINE) {
                limiters.finish(ticket, now, Ending::GivenUp);
            }
        }
        while line.front().is_some_and(|(came, _)| now >= *came + DEADLINE) {
            let (_, ticket) = line.pop_front().unwrap();
            limiters.finish(ticket, now, Ending::GivenUp);
        }
        while worked_on.len() < 16 && !line.is_empty() {
            worked_on.push_back((now, line.pop_front()));
        }
    }
    assert!(
        limiters.limit(0).is_some_and(|limit| limit < 100),
        "{:?}",
        limiters.limit(0)
    );
    assert!(answered >= 800, "{answered} of the last 1,000 that are possible");
}

/// Somebody waits for news, which come hardly ever: nobody is kept from it.
#[test]
fn calls_that_nearly_always_end_by_their_deadlines_are_not_a_line() {
    let start = crate::time::now();
    let mut limiters = Limiters::new(1, start);
    let mut waiting: VecDeque<(Instant, Ticket)> = VecDeque::new();
    let (mut limited, deadline) = (0, Duration::from_secs(60));
    for step in 0..60_000_u32 {
        let now = start + 10 * MS * step;
        let is_news = step == 500;
        while waiting.front().is_some_and(|(begun, _)| is_news || now >= *begun + deadline) {
            let (_, ticket) = waiting.pop_front().unwrap();
            let ending = if is_news { Ending::Answered } else { Ending::GivenUp };
            limiters.finish(ticket, now, ending);
        }
        while waiting.len() < 1_000.min(step as usize + 1) {
            waiting.push_back((now, limiters.take_up(0, now)));
        }
        limited += u32::from(limiters.limit(0).is_some());
    }
    assert_eq!(limited, 0, "of 60,000 moments");
}

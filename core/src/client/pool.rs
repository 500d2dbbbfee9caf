//! The endpoints of a target: found, connected, watched, and chosen between.
//!
//! One task follows the resolver's lists and the states of the subchannels, and publishes what calls read: the ready endpoints and a picker for them.
//! Calls take no lock and never wait for that task while anybody is ready. It ends when nothing was called for long, and with its runtime; the next call
//! begins it anew, with the last list as long as there is no newer.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{Notify, watch};

use super::balancer::zoned::Zone;
use super::balancer::{Balancer, Candidate, PickArgs, Picker, named, routed};
use super::channel::Wanted;
use super::choosing::{Choosing, Policy};
use super::ejection::Watch;
use super::extra_connections::ExtraConnections;
use super::member::{Member, Picked};
use super::members::{Members, View};
use super::on_demand::{IsRunning, OnDemand, resolve};
use super::peers::Peers;
use super::periodic::{Idle, Refresh};
use super::snapshot::{Board, ChannelSnapshot, ListSnapshot};
use super::state::ConnectivityState;
use super::subchannel::{Subchannel, SubchannelConfig, closed, unless_closed, unreachable};
use crate::config::ServiceConfig;
use crate::config::layers::Layers;
use crate::discovery::supervised::Task;
use crate::discovery::{Aperture, Endpoint, Publisher, Resolution, Resolver};
use crate::faults::ChannelFaults;
use crate::policy::aperture::Place;
use crate::policy::backoff::Backoff;
use crate::policy::load::{Load, Typical};
use crate::policy::outlier::OutlierDetection;
use crate::status::{HandlerRan, Status};
use crate::time;
use crate::transport::error::WithCauses;

/// Makes the subchannel of an endpoint; `Err` if the client does not want to connect to it.
pub(super) type Connect = dyn Fn(&Endpoint, Arc<Notify>) -> Result<SubchannelConfig, Status> + Send + Sync;

pub(super) struct Pool {
    shared: Arc<Shared>,
    task: OnDemand,
}

pub(super) struct PoolConfig {
    pub(super) target: String,
    pub(super) resolver: Arc<dyn Resolver>,
    /// Unless the configuration names another.
    pub(super) balancer: Arc<dyn Balancer>,
    /// The same.
    pub(super) outliers: OutlierDetection,
    pub(super) layers: Layers,
    pub(super) connect: Arc<Connect>,
    pub(super) connections_per_endpoint: usize,
    pub(super) connect_timeout: Duration,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) backoff: Backoff,
    /// Where this client runs.
    pub(super) zone: Option<String>,
    /// The handle by which the configuration may set faults.
    pub(super) faults: Option<Arc<ChannelFaults>>,
    /// How this client shares the endpoints with others; `None` if it does so at random.
    pub(super) aperture: Option<Aperture>,
}

struct Shared {
    config: PoolConfig,
    published: ArcSwapOption<Published>,
    state: watch::Sender<ConnectivityState>,
    failure: ArcSwap<Option<Status>>,
    /// A subchannel has changed its state.
    changed: Arc<Notify>,
    typical: Arc<Typical>,
    /// What tells this client from others.
    seed: u64,
    /// What the resolver said last.
    last: Mutex<Option<Resolution>>,
    /// All members that exist, for the end of the channel.
    members: Mutex<Vec<Weak<Member>>>,
    /// For snapshots.
    board: ArcSwap<Board>,
    /// The share of calls that stay in the zone: the bits of an `f64`, which is no number if zones do not count.
    zone_share: Arc<AtomicU64>,
    running: IsRunning,
}

/// The user's balancer panicked, and is asked again with the next change.
struct BalancerPanicked;

/// What became of a look at the members.
struct Shown {
    /// Nobody can be called for the moment.
    is_hopeless: bool,
    look_again: Option<tokio::time::Instant>,
}

/// What calls read.
struct Published {
    candidates: Box<[Candidate]>,
    picker: Arc<dyn Picker>,
    /// Those that a call may ask whether they work again.
    ejected: Box<[Arc<Member>]>,
}

impl Pool {
    pub(super) fn new(config: PoolConfig) -> Self {
        let task = OnDemand::default();
        Self {
            shared: Arc::new(Shared {
                config,
                published: ArcSwapOption::empty(),
                state: watch::Sender::new(ConnectivityState::Idle),
                failure: ArcSwap::from_pointee(None),
                changed: Arc::new(Notify::new()),
                typical: Arc::new(Typical::new(time::now())),
                seed: fastrand::u64(..),
                last: Mutex::new(None),
                members: Mutex::default(),
                board: ArcSwap::from_pointee(Board::default()),
                zone_share: Arc::new(AtomicU64::new(f64::NAN.to_bits())),
                running: task.is_running(),
            }),
            task,
        }
    }

    pub(super) fn target(&self) -> &str {
        &self.shared.config.target
    }

    pub(super) fn state(&self) -> watch::Receiver<ConnectivityState> {
        self.shared.state.subscribe()
    }

    /// How calls are to be made, if that is not the default.
    pub(super) fn config_for_calls(&self) -> arc_swap::Guard<Option<Arc<ServiceConfig>>> {
        self.shared.config.layers.for_calls()
    }

    /// What is known now.
    pub(super) fn snapshot(&self) -> ChannelSnapshot {
        let (shared, board) = (&self.shared, self.shared.board.load());
        let list = shared.last().as_ref().map(|list| ListSnapshot {
            version: list.version(),
            listed: board.listed,
            kept: board.kept,
            age: list.age(),
            is_stale: list.is_stale(),
            failure: list.failure().map(|failure| WithCauses(failure).to_string()),
        });
        ChannelSnapshot {
            faults: 0,
            retries: 0,
            retries_withheld: 0,
            hedges: 0,
            hedges_withheld: 0,
            methods: Vec::new(),
            target: self.target().to_owned(),
            state: *shared.state.borrow(),
            failure: self.last_failure().map(|failure| failure.message().to_owned()),
            list,
            endpoints: board.endpoints(),
            zone_share: self.shared.zoned_share(),
            place: board.place,
            refused: board.refused.clone(),
            unused: board.unused.clone(),
            config: (*shared.config.layers.merged()).clone(),
            config_failures: shared.config.layers.failures().iter().map(ToString::to_string).collect(),
        }
    }

    /// Why nobody can be reached, if so.
    pub(super) fn last_failure(&self) -> Option<Status> {
        let failing = *self.shared.state.borrow() == ConnectivityState::TransientFailure;
        failing.then(|| self.shared.failure())
    }

    /// Chooses a connection for an attempt, if there is one. Members that were tried are left out as long as there are others.
    pub(super) fn pick(&self, wanted: &Wanted<'_>) -> Option<Picked> {
        let published = self.shared.published.load();
        let published = published.as_deref()?;
        let clock = Cell::new(None);
        let exclude = wanted.tried;
        let args = PickArgs {
            now: &clock,
            method: wanted.method,
            metadata: Some(wanted.metadata),
            route_key: wanted.route_key,
            exclude,
        };
        if !published.ejected.is_empty()
            && let Some(picked) = published.probe(wanted, &args)
        {
            return Some(picked);
        }
        let first = published.pick(&args);
        if let Some(picked) = first.and_then(|candidate| candidate.member.begin(|| args.now())) {
            return Some(picked);
        }
        // It lost its connection a moment ago, or all were tried.
        let mut lost = exclude.to_vec();
        let mut last = first;
        while let Some(candidate) = last.filter(|one| !lost.contains(&one.member.id)) {
            lost.push(candidate.member.id);
            last = published.pick(&PickArgs { exclude: &lost, ..args });
            if let Some(picked) = last.and_then(|candidate| candidate.member.begin(|| args.now())) {
                return Some(picked);
            }
        }
        if exclude.is_empty() {
            return None;
        }
        published
            .pick(&PickArgs { exclude: &[], ..args })
            .and_then(|candidate| candidate.member.begin(|| args.now()))
    }

    /// A connection for an attempt; waits until there is one.
    ///
    /// # Errors
    /// UNAVAILABLE with the cause if nobody can be reached and `wait_for_ready` is off, or the channel is closed.
    ///
    /// # Cancel safety
    /// Cancel safe; connecting goes on for others.
    pub(super) async fn acquire(&self, wanted: &Wanted<'_>) -> Result<Picked, Status> {
        let mut state = self.shared.state.subscribe();
        loop {
            let now = *state.borrow_and_update();
            if let Some(picked) = self.pick(wanted) {
                return Ok(picked);
            }
            match now {
                ConnectivityState::Shutdown => return Err(closed()),
                ConnectivityState::TransientFailure if !wanted.wait_for_ready => return Err(self.shared.failure()),
                _ => self.start()?,
            }
            if state.changed().await.is_err() {
                return Err(closed());
            }
        }
    }

    /// Connects and waits for READY, for the connect time-out at most.
    ///
    /// # Errors
    /// UNAVAILABLE with the cause of the last failure.
    pub(super) async fn connect(&self) -> Result<(), Status> {
        let mut state = self.shared.state.subscribe();
        let ready = async {
            loop {
                match *state.borrow_and_update() {
                    ConnectivityState::Ready => return Ok(()),
                    ConnectivityState::Shutdown => return Err(closed()),
                    ConnectivityState::Idle | ConnectivityState::Connecting | ConnectivityState::TransientFailure => {
                        self.start()?;
                    }
                }
                if state.changed().await.is_err() {
                    return Err(closed());
                }
            }
        };
        match tokio::time::timeout(self.shared.config.connect_timeout, ready).await {
            Ok(result) => result,
            Err(_) => Err(self.shared.failure()),
        }
    }

    /// Starts the task unless it runs.
    fn start(&self) -> Result<(), Status> {
        let check = || unless_closed(self.shared.is_shut_down());
        self.task.start(check, || run(Running(Arc::clone(&self.shared))))
    }

    /// Has those that wait before they connect again do so soon.
    pub(super) fn reset_backoff(&self) {
        let members = self.shared.members();
        members.iter().filter_map(Weak::upgrade).for_each(|member| member.subchannel.reset_backoff());
    }

    /// Closes all connections for good.
    pub(super) fn shut_down(&self) {
        self.shared.state.send_replace(ConnectivityState::Shutdown);
        self.shared.published.store(None);
        self.task.stop();
        // Those that are in no list any more, too: their calls end as well.
        let members = std::mem::take(&mut *self.shared.members());
        members.iter().filter_map(Weak::upgrade).for_each(|member| member.shut_down());
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shut_down();
    }
}

impl Published {
    /// An endpoint that is ejected and has to be asked whether it works again, if this call is one that may.
    #[cold]
    fn probe(&self, wanted: &Wanted<'_>, args: &PickArgs<'_>) -> Option<Picked> {
        let may_ask = (wanted.may_ask)();
        let mut free = self.ejected.iter().filter(|member| !wanted.tried.contains(&member.id));
        let member = free.find(|member| member.watch.takes_probe(may_ask))?;
        let mut picked = member.begin(|| args.now());
        match picked.as_mut().and_then(|picked| picked.completion.as_mut()) {
            Some(completion) => completion.set_probe(),
            None => member.watch.give_back_probe(),
        }
        picked
    }

    fn pick(&self, args: &PickArgs<'_>) -> Option<&Candidate> {
        self.picker.pick(args).and_then(|index| self.candidates.get(index))
    }
}

/// Tidies up when the task ends, also when its runtime goes down: the next call starts a new task on its own runtime.
struct Running(Arc<Shared>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.published.store(None);
        self.0.zone_share.store(f64::NAN.to_bits(), Ordering::Relaxed);
        self.0.running.store(false, Ordering::Release);
        self.0.state.send_modify(|state| {
            if *state != ConnectivityState::Shutdown {
                *state = ConnectivityState::Idle;
            }
        });
    }
}

async fn run(running: Running) {
    let shared = &running.0;
    shared.set_state(ConnectivityState::Connecting);
    let (publisher, mut lists) = Publisher::channel();
    let resolving = resolve(Arc::clone(&shared.config.resolver), publisher, shared.config.backoff);
    let _resolving = Task::new(tokio::spawn(resolving));
    let mut layers = shared.config.layers.follow(shared.config.backoff);
    let mut config = shared.config.layers.merged();
    let mut policy = shared.take_up(&config);
    let mut zone = shared.zone();
    let mut refresh = Refresh::new();
    let aperture = shared.config.aperture.as_ref();
    let mut peers = aperture.map(|aperture| (Peers::join(aperture, shared.seed, shared.config.backoff), aperture.size));
    let window = shared.config.resolver.removal_window();
    let mut members = Members::new(
        &shared.config.target,
        shared.seed,
        window,
        Arc::clone(&config),
        policy.connects_to,
        shared.config.zone.clone(),
        shared.outliers(&config),
    );
    let make = |endpoint: &Endpoint| shared.member(endpoint);
    if let Some(last) = &*shared.last() {
        members.recall(last, make);
    }
    let mut idle = Idle::new(shared.config.idle_timeout);
    loop {
        let now = tokio::time::Instant::now();
        let review = members.review(make);
        let by = Choosing::new(&config, &policy, &mut zone);
        let next_refresh = refresh.look(now, by.refresh_interval(), &mut members);
        let shown = shared.show(&mut members, layers.waits_until(now), by);
        if shown.is_hopeless {
            lists.want();
        }
        let look_again = shown.look_again.into_iter().chain(review).chain(next_refresh).min();
        // All of them are cancel safe: a list and a state can be looked at again, and a permit of the notification is kept.
        tokio::select! {
            _ = lists.changed() => {
                let list = lists.latest();
                members.update(&list, make);
                if list.version() > 0 {
                    *shared.last() = Some(list);
                }
            }
            () = shared.changed.notified() => {}
            () = layers.changed() => {
                let merged = shared.config.layers.merged();
                if !merged.is_called_as(&config) {
                    tracing::info!(target = %shared.config.target, "another configuration of the service counts");
                    let has_other_routes = merged.routes != config.routes;
                    config = merged;
                    policy = shared.take_up(&config);
                    if let Some(zone) = zone.as_mut().filter(|_| has_other_routes) {
                        zone.rest();
                    }
                    members.configure(Arc::clone(&config), policy.connects_to, shared.outliers(&config), make);
                }
            }
            (place, size) = moved(&mut peers) => members.place(place, size, make),
            () = tokio::time::sleep_until(look_again.unwrap_or(now)), if look_again.is_some() => {}
            () = idle.look() => {
                if idle.is_over(&members) {
                    // The connections end with the members.
                    return;
                }
            }
        }
    }
}

/// Waits until this client has another place among all of them.
async fn moved(peers: &mut Option<(Peers, usize)>) -> (Place, usize) {
    match peers {
        Some((peers, size)) => (peers.moved().await, *size),
        None => std::future::pending().await,
    }
}

impl Shared {
    /// A member for an endpoint that is new.
    fn member(&self, endpoint: &Endpoint) -> Result<Arc<Member>, Status> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let config = (self.config.connect)(endpoint, Arc::clone(&self.changed)).inspect_err(|refused| {
            tracing::warn!(
                endpoint = endpoint.name(),
                cause = refused.message(),
                "an endpoint is not used"
            );
        })?;
        let member = Arc::new(Member {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            subchannel: Subchannel::new(config),
            extras: self.extras(endpoint),
            load: Load::default(),
            ready_since: Mutex::default(),
            typical: Arc::clone(&self.typical),
            reported: Mutex::default(),
            watch: Watch::new(Arc::clone(&self.changed)),
        });
        let mut members = self.members();
        members.retain(|member| member.strong_count() > 0);
        members.push(Arc::downgrade(&member));
        Ok(member)
    }

    /// The zone of this client, all of whose calls stay there as yet.
    fn zone(&self) -> Option<Zone> {
        let name = self.config.zone.clone()?;
        Some(Zone::new(name, Arc::clone(&self.zone_share)))
    }

    /// The share of calls that stay in the zone, if that counts.
    fn zoned_share(&self) -> Option<f64> {
        let share = f64::from_bits(self.zone_share.load(Ordering::Relaxed));
        Some(share).filter(|share| !share.is_nan())
    }

    /// What makes further connections to an endpoint, if there may be any.
    fn extras(&self, endpoint: &Endpoint) -> Option<ExtraConnections> {
        let max = self.config.connections_per_endpoint;
        let (connect, endpoint) = (Arc::clone(&self.config.connect), endpoint.clone());
        let make = move || connect(&endpoint, Arc::default());
        (max > 1).then(|| ExtraConnections::new(max, Box::new(make)))
    }

    /// When an endpoint is ejected.
    fn outliers(&self, config: &ServiceConfig) -> OutlierDetection {
        config.outliers.unwrap_or(self.config.outliers)
    }

    /// Takes up a configuration: sets its faults, where the code allows for it, and finds the balancer that holds.
    fn take_up(&self, config: &ServiceConfig) -> Policy {
        if let Some(faults) = &self.config.faults {
            faults.configure(config.faults.clone().unwrap_or_default());
        }
        Policy::new(config.balancer.as_ref().map_or_else(|| Arc::clone(&self.config.balancer), named::balancer))
    }

    fn members(&self) -> MutexGuard<'_, Vec<Weak<Member>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows calls what the members make of themselves now, unless that has to wait until `hold_back`.
    fn show(&self, members: &mut Members, hold_back: Option<tokio::time::Instant>, by: Choosing<'_>) -> Shown {
        let view = members.view(tokio::time::Instant::now());
        if members.take_changed() || matches!(view, View::Ready(..)) {
            self.board.store(Arc::new(members.board()));
        }
        let view = match (view, hold_back) {
            (View::Ready(..) | View::Unchanged, Some(until)) => {
                members.show_again();
                View::Gathering(until)
            }
            (view, _) => view,
        };
        let is_hopeless = matches!(view, View::Nobody { is_hopeless: true, .. });
        let gathering = self.publish(view, by).unwrap_or_else(|BalancerPanicked| {
            members.show_again();
            None
        });
        Shown {
            is_hopeless,
            look_again: gathering.into_iter().chain(members.look_again()).min(),
        }
    }

    /// Shows calls what they are to read; returns until when to wait for more.
    fn publish(&self, view: View, by: Choosing<'_>) -> Result<Option<tokio::time::Instant>, BalancerPanicked> {
        match view {
            View::Nobody { failure, is_hopeless } => {
                self.published.store(None);
                self.failure.store(Arc::new(failure));
                // Once that is a failure it stays one until somebody is ready.
                if is_hopeless {
                    if *self.state.borrow() != ConnectivityState::TransientFailure {
                        let cause = self.failure();
                        tracing::warn!(target = %self.config.target, cause = cause.message(), "nobody can be called");
                    }
                    self.set_state(ConnectivityState::TransientFailure);
                } else if *self.state.borrow() != ConnectivityState::TransientFailure {
                    self.set_state(ConnectivityState::Connecting);
                }
            }
            View::Gathering(until) => return Ok(Some(until)),
            View::Ready(candidates, ejected) => {
                if *self.state.borrow() == ConnectivityState::TransientFailure {
                    tracing::info!(target = %self.config.target, ready = candidates.len(), "there is somebody to call again");
                }
                let balancer = &*by.policy.balancer;
                let make = || routed::picker(&candidates, by.config, balancer, by.zone, time::now());
                match catch_unwind(AssertUnwindSafe(make)) {
                    Ok(picker) => self.published.store(Some(Arc::new(Published {
                        candidates: candidates.into(),
                        picker,
                        ejected: ejected.into(),
                    }))),
                    Err(_panic) => {
                        tracing::error!(
                            ?balancer,
                            "the balancer panicked; calls go on with its last picker, if there is one"
                        );
                        if self.published.load().is_none() {
                            let failure = Status::internal("the balancer panicked").with_handler_ran(HandlerRan::No);
                            self.failure.store(Arc::new(Some(failure)));
                            self.set_state(ConnectivityState::TransientFailure);
                        }
                        return Err(BalancerPanicked);
                    }
                }
                self.set_state(ConnectivityState::Ready);
            }
            // A member may have lost a connection and made another one.
            View::Unchanged => self.set_state(ConnectivityState::Ready),
        }
        Ok(None)
    }

    fn last(&self) -> MutexGuard<'_, Option<Resolution>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_shut_down(&self) -> bool {
        *self.state.borrow() == ConnectivityState::Shutdown
    }

    fn failure(&self) -> Status {
        let known = Option::clone(&self.failure.load());
        known.unwrap_or_else(|| {
            let (target, within) = (&self.config.target, self.config.connect_timeout);
            unreachable(match self.board.load().members.len() {
                0 => format!("no endpoint of {target} was found within {within:?}"),
                count => format!("none of {count} endpoints of {target} was ready within {within:?}"),
            })
        })
    }

    /// Sets the state, and wakes who waits for a connection even if it is the same.
    fn set_state(&self, new: ConnectivityState) {
        self.state.send_modify(|state| {
            if *state != ConnectivityState::Shutdown {
                *state = new;
            }
        });
    }
}

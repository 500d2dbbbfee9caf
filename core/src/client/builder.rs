//! Settings of a channel.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::balancer::{Balancer, PeakEwma};
use super::channel::{self, CallSettings, Channel};
use super::extra_connections::CONNECTIONS_MAX;
use super::governance::Policies;
use super::health::HealthCheck;
use super::pool::{Pool, PoolConfig};
use super::subchannel::{Connector, Dial, Subchannel, SubchannelConfig};
use super::target::{Service, Target, wrong};
use crate::call::DEADLINE_DEFAULT;
use crate::config::layers::Layers;
use crate::config::{ConfigSource, ServiceConfig};
use crate::discovery::saved::Saved;
use crate::discovery::{Aperture, Endpoint, Resolver};
use crate::interceptor::{Chain, Interceptor};
use crate::mux::MuxConfig;
use crate::mux::config::check_duration;
use crate::policy::backoff::Backoff;
use crate::policy::breaker::CircuitBreaker;
use crate::policy::hedging::HedgingPolicy;
use crate::policy::outlier::OutlierDetection;
use crate::policy::retry::RetryPolicy;
use crate::policy::throttle::AdaptiveThrottle;
use crate::status::{HandlerRan, Status};
use crate::time::{DurationError, IntoDuration};
use crate::transport::Address;
use crate::transport::connect::{CONNECT_TIMEOUT, DialConfig, Dialler};
use crate::transport::error::WithCauses;
#[cfg(feature = "quic")]
use crate::transport::quic::ClientQuic;
#[cfg(feature = "tls")]
use crate::transport::tls::ClientTls;

/// How often endpoints may report their load: twice as often as it changes, so that no report is much older than what it is about.
const LOAD_INTERVAL: Duration = Duration::from_millis(250);

/// Builds a [`Channel`]. A wrong setting is reported when the channel is made.
pub struct ChannelBuilder {
    mux: MuxConfig,
    backoff: Backoff,
    connect_timeout: Duration,
    calls: CallSettings,
    dangerous_plaintext: bool,
    dial: DialConfig,
    resolver: Option<Arc<dyn Resolver>>,
    balancer: Option<Arc<dyn Balancer>>,
    outliers: OutlierDetection,
    health: Option<HealthCheck>,
    saved: Option<PathBuf>,
    slow_start: Option<Duration>,
    zone: Option<String>,
    aperture: Option<Aperture>,
    connections_per_endpoint: usize,
    config: Option<ServiceConfig>,
    config_sources: Vec<Arc<dyn ConfigSource>>,
    wrong: Option<String>,
}

impl fmt::Debug for ChannelBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelBuilder")
            .field("limits", &self.mux)
            .field("backoff", &self.backoff)
            .field("connect_timeout", &self.connect_timeout)
            .field("timeout", &self.calls.timeout)
            .field("balancer", &self.balancer)
            .finish_non_exhaustive()
    }
}

impl Default for ChannelBuilder {
    fn default() -> Self {
        Self {
            mux: MuxConfig::default(),
            backoff: Backoff::DEFAULT,
            connect_timeout: CONNECT_TIMEOUT,
            calls: CallSettings {
                chain: Chain::default(),
                timeout: Some(DEADLINE_DEFAULT),
                wait_for_ready: false,
                policies: Policies::DEFAULT,
                faults: None,
            },
            dangerous_plaintext: false,
            dial: DialConfig::default(),
            resolver: None,
            balancer: None,
            outliers: OutlierDetection::DEFAULT,
            health: None,
            saved: None,
            slow_start: None,
            zone: None,
            aperture: None,
            connections_per_endpoint: 1,
            config: None,
            config_sources: Vec::new(),
            wrong: None,
        }
    }
}

impl ChannelBuilder {
    /// Sets the deadline of calls that have no other (default 10 s, at most 365 days). It covers the call until its response, an upload included; where the
    /// response is a stream, until that begins. [`Call::detached`](super::Call::detached) calls have none.
    #[must_use]
    pub fn timeout(mut self, timeout: impl IntoDuration) -> Self {
        self.calls.timeout = self.duration("timeout", timeout.into_duration()).or(self.calls.timeout);
        self
    }

    /// Sets the time that one attempt to connect has, and that [`connect`](Self::connect) waits for READY (default 1 s, more than 0, at most 365 days).
    #[must_use]
    pub fn connect_timeout(mut self, timeout: impl IntoDuration) -> Self {
        if let Some(timeout) = self.duration("connect_timeout", timeout.into_duration()) {
            self.connect_timeout = timeout;
        }
        self
    }

    /// Sets how long to wait between attempts to connect (default 50 ms x 1.6, full jitter, at most 5 s).
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Sets how failed calls are tried again (default: [`RetryPolicy::DEFAULT`]), where the service's configuration says nothing of it.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.calls.policies.retry = policy;
        self
    }

    /// Sets when an endpoint that is worse than the others gets no calls for a while (default: [`OutlierDetection::DEFAULT`]), where the service's configuration says
    /// nothing of it. Channels to one address have nobody to compare.
    #[must_use]
    pub fn outlier_detection(mut self, policy: OutlierDetection) -> Self {
        self.outliers = policy;
        self
    }

    /// Makes calls that take long a second time, at another endpoint (default: none are), where the service's configuration says nothing of it. Channels to one address
    /// have no other.
    #[must_use]
    pub fn hedging(mut self, policy: HedgingPolicy) -> Self {
        self.calls.policies.hedging = policy;
        self
    }

    /// Sets when calls are left out that would be turned away (default: [`AdaptiveThrottle::DEFAULT`]), where the service's configuration says nothing of it.
    #[must_use]
    pub fn throttle(mut self, policy: AdaptiveThrottle) -> Self {
        self.calls.policies.guards.throttle = policy;
        self
    }

    /// Gives each method a circuit breaker (default: none), where the service's configuration says nothing of it.
    #[must_use]
    pub fn circuit_breaker(mut self, policy: CircuitBreaker) -> Self {
        self.calls.policies.guards.breaker = policy;
        self
    }

    /// Lets calls wait for the connection instead of failing while it cannot be made (default off).
    #[must_use]
    pub fn wait_for_ready(mut self) -> Self {
        self.calls.wait_for_ready = true;
        self
    }

    /// Lets attempts meet these [faults](crate::faults), after their endpoint is chosen and under all that is done about failures; for tests and game days. The handle
    /// changes them while calls run. Calls to a handler in this process have no attempts.
    #[cfg(feature = "faults")]
    #[must_use]
    pub fn faults(mut self, faults: crate::faults::Faults) -> Self {
        self.calls.faults = Some(Arc::new(faults.of_channel()));
        self
    }

    /// Sets the silence after which a ping is sent while calls run (default 10 s; never before the peer's own least interval, by default 5 s), and the time
    /// to answer it (default 5 s). Each more than 0 and at most 365 days; off by [`limits`](Self::limits) only. Over QUIC it is sent without calls, too, and
    /// whatever the peer's interval.
    #[must_use]
    pub fn keepalive(mut self, interval: impl IntoDuration, timeout: impl IntoDuration) -> Self {
        let interval = self.duration("keepalive_interval", interval.into_duration());
        let timeout = self.duration("keepalive_timeout", timeout.into_duration());
        self.mux.keepalive_interval = interval.or(self.mux.keepalive_interval);
        self.mux.keepalive_timeout = timeout.unwrap_or(self.mux.keepalive_timeout);
        self
    }

    /// Sets the time without calls after which the connection is closed (default 30 min); the next call makes a new one.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: impl IntoDuration) -> Self {
        let timeout = self.duration("idle_timeout", timeout.into_duration());
        self.mux.idle_timeout = timeout.or(self.mux.idle_timeout);
        self
    }

    /// Sets the largest response, or item of a stream, that is accepted, in bytes (default 4 MiB).
    #[must_use]
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.mux.max_message = bytes;
        self.mux.assembly_bytes_max = self.mux.assembly_bytes_max.max(bytes);
        self
    }

    /// Sets all limits of the connection at once, in place of what was set before.
    #[must_use]
    pub fn limits(mut self, limits: MuxConfig) -> Self {
        self.mux = limits;
        self
    }

    /// Allows clear text to addresses other than loopback.
    #[must_use]
    pub fn dangerous_plaintext(mut self) -> Self {
        self.dangerous_plaintext = true;
        self
    }

    /// Sets which servers are trusted, and what is shown to them, where the target is encrypted (`tls://`, `quic://`). Without it servers must prove their
    /// name to the authorities that the system trusts; on loopback, to this user's development authority (feature `dev-tls`).
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.dial.tls = Some(tls);
        self
    }

    /// Sets how QUIC is spoken where the target is `quic://` or `quic+tcp://`.
    #[cfg(feature = "quic")]
    #[must_use]
    pub fn quic(mut self, quic: ClientQuic) -> Self {
        self.dial.quic = Some(quic);
        self
    }

    /// Adds an interceptor around every call, inside those added before.
    #[must_use]
    pub fn interceptor(mut self, interceptor: impl Interceptor + 'static) -> Self {
        self.calls.chain = self.calls.chain.with(interceptor);
        self
    }

    /// Sets how the endpoints of a service are found, in place of what the target says; the target is the service's name then: it is shown in errors, and
    /// encrypted endpoints must prove to be it.
    #[must_use]
    pub fn resolver(mut self, resolver: impl Resolver) -> Self {
        self.resolver = Some(Arc::new(resolver));
        self
    }

    /// Sets how an endpoint is chosen for a call (default [`PeakEwma`]), where the target stands for several.
    #[must_use]
    pub fn balancer(mut self, balancer: impl Balancer) -> Self {
        self.balancer = Some(Arc::new(balancer));
        self
    }

    /// Sets how to find out which endpoints serve (default [`HealthCheck::watch`]), where the target stands for several.
    #[must_use]
    pub fn health_check(mut self, check: HealthCheck) -> Self {
        self.health = Some(check);
        self
    }

    /// Keeps the list of endpoints in this file, where the target stands for several, so that a client that starts while its registry is down has somebody to
    /// call (default: it has not). The list counts as stale ([`ListSnapshot::is_stale`](super::ListSnapshot::is_stale)) until the registry answers. A path of its own for
    /// each service, in a folder that exists; it is replaced as a whole. What cannot be read or written is logged.
    #[must_use]
    pub fn endpoint_cache(mut self, path: impl Into<PathBuf>) -> Self {
        self.saved = Some(path.into());
        self
    }

    /// Sets how the service is to be called, where the target stands for several endpoints; the lowest layer, below those of
    /// [`config_source`](Self::config_source).
    #[must_use]
    pub fn service_config(mut self, config: ServiceConfig) -> Self {
        self.config = Some(config);
        self
    }

    /// Adds a place where the service's configuration is followed, where the target stands for several endpoints; it lies over those added before, and that of
    /// the target itself (`etcd://`) over all. The first calls of a channel wait for it, for half a second at most.
    #[must_use]
    pub fn config_source(mut self, source: impl ConfigSource) -> Self {
        self.config_sources.push(Arc::new(source));
        self
    }

    /// Sets how many connections to each endpoint there may be (default 1, at most 16). Another one is made when all of them get 100 calls under way, or as many as
    /// their server takes; it closes after 30 s without any. For clients with very many calls at a time, or long streams.
    #[must_use]
    pub fn connections_per_endpoint(mut self, max: usize) -> Self {
        self.connections_per_endpoint = max;
        self
    }

    /// Sets that this client takes its share of many endpoints by its place among all clients (default: at random, of more than 64), so that all endpoints get
    /// the same: for services with few clients, or few connections each, where chance does not make up for itself. Not together with [`zone`](Self::zone);
    /// balancers for which it matters where a call goes have no use for it.
    #[must_use]
    pub fn aperture(mut self, aperture: Aperture) -> Self {
        self.aperture = Some(aperture);
        self
    }

    /// Sets the zone that this client runs in, as its endpoints name theirs (default: none; an empty text counts as that). Calls go to endpoints of the same zone
    /// as long as those are no busier than all are on average, by what they report of their load, failures included. Above 1.15 times that, or above 0.9 of their
    /// capacity if others are below, the rest goes to the other zones; and above a tenth of their capacity a hundredth in any case, to hear of them, or a tenth
    /// while nothing was heard for a minute. What is left of a zone that lost endpoints is given its part of what it had, and more as it can take it. Where no
    /// endpoint of the zone takes calls, all go to the others. Balancers for which it matters where a call goes (consistent hash, pick first) choose from all
    /// zones. A service's configuration can switch it off ([`prefer_zone`](ServiceConfig::prefer_zone)).
    #[must_use]
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = Some(zone.into()).filter(|zone: &String| !zone.is_empty());
        self
    }

    /// Sets the time in which an endpoint that is new grows from a tenth of its share to all of it (default none: it has it at once), where the target stands for
    /// several: for servers that have to fill caches first. Those that the channel finds at its start grow side by side.
    #[must_use]
    pub fn slow_start(mut self, window: impl IntoDuration) -> Self {
        self.slow_start = self.duration("slow_start", window.into_duration()).or(self.slow_start);
        self
    }

    /// Makes the channel without connecting.
    ///
    /// # Errors
    /// INVALID_ARGUMENT names the wrong target or setting.
    pub fn lazy(mut self, target: &str) -> Result<Channel, Status> {
        let parsed = match self.resolver.take() {
            Some(resolver) => Target::Service(Service {
                resolver,
                identity: Some(target.to_owned()),
                // It may be a name for certificates alone.
                name: None,
                config: None,
                dangerous_plaintext: false,
            }),
            None => Target::parse(target)?,
        };
        match parsed {
            Target::Address(address) => self.build_for_address(address),
            Target::Service(service) => self.build_for_service(target, service),
        }
    }

    fn build_for_address(mut self, mut address: Address) -> Result<Channel, Status> {
        if let Some(balancer) = &self.balancer {
            return Err(wrong(&format_args!(
                "{address} is one address, so `.balancer({balancer:?})` would do nothing; call a service, or leave it out"
            )));
        }
        if self.config.is_some() || self.slow_start.is_some() || !self.config_sources.is_empty() {
            return Err(wrong(&format_args!(
                "{address} is one address, so `.service_config(..)`, `.config_source(..)` and `.slow_start(..)` would do nothing; call a service, as static:///{address}"
            )));
        }
        if self.connections_per_endpoint > 1 {
            return Err(wrong(&format_args!(
                "{address} is one address, which has one connection, so `.connections_per_endpoint(..)` would do nothing; call it as static:///{address}"
            )));
        }
        if let Some(aperture) = &self.aperture {
            return Err(wrong(&format_args!(
                "{address} is one address, so `.aperture({aperture:?})` would do nothing; leave it out"
            )));
        }
        if let Some(zone) = &self.zone {
            return Err(wrong(&format_args!(
                "{address} is one address, so `.zone({zone:?})` would do nothing; leave it out"
            )));
        }
        if self.saved.is_some() {
            return Err(wrong(&format_args!(
                "{address} is one address, so `.endpoint_cache(..)` would do nothing; leave it out"
            )));
        }
        if self.health.is_some() {
            return Err(wrong(&format_args!(
                "{address} is one address, and called however it is, so `.health_check(..)` would do nothing; ask it by `Channel::health_of`, or leave it out"
            )));
        }
        if self.dangerous_plaintext {
            address = address.with_dangerous_plaintext();
        }
        // Before the transport gets to see them.
        self.mux.check().map_err(|error| wrong(&error))?;
        self.dial.limits = self.mux.clone();
        let timeout = self.connect_timeout;
        let target = address.to_string();
        let dialler =
            Dialler::new(address, std::mem::take(&mut self.dial)).map_err(|error| wrong(&WithCauses(&error)))?;
        let diallers = vec![dialler];
        self.with_connector(&target, Dial { diallers, timeout })
    }

    fn build_for_service(mut self, target: &str, service: Service) -> Result<Channel, Status> {
        self.check()?;
        self.dial.limits = self.mux.clone();
        let health = self.health.take().unwrap_or_default().for_service(service.name.as_deref());
        self.config_sources.extend(service.config);
        self.dial.identity = service.identity;
        let endpoints = Endpoints {
            dial: std::mem::take(&mut self.dial),
            plaintext_allowed: self.dangerous_plaintext || service.dangerous_plaintext,
            // The channel as a whole is idle or not.
            mux: MuxConfig {
                idle_timeout: None,
                load_interval: self.mux.load_interval.or(Some(LOAD_INTERVAL)),
                ..self.mux.clone()
            },
            backoff: self.backoff,
            connect_timeout: self.connect_timeout,
            health,
        };
        let pool = Pool::new(PoolConfig {
            target: target.to_owned(),
            resolver: match self.saved.take() {
                Some(path) => Arc::new(Saved::new(service.resolver, path)),
                None => service.resolver,
            },
            balancer: self.balancer.take().unwrap_or_else(|| Arc::new(PeakEwma)),
            outliers: self.outliers,
            layers: Layers::new(self.service_config_in_code(), self.config_sources),
            connect: Arc::new(move |endpoint, changed| endpoints.subchannel(endpoint, changed)),
            connections_per_endpoint: self.connections_per_endpoint,
            connect_timeout: self.connect_timeout,
            idle_timeout: self.mux.idle_timeout,
            backoff: self.backoff,
            zone: self.zone.take(),
            faults: self.calls.faults.clone(),
            aperture: self.aperture.take(),
        });
        Ok(Channel::remote(channel::Target::Pool(pool), self.calls))
    }

    /// What the code says of the service's configuration.
    fn service_config_in_code(&mut self) -> ServiceConfig {
        let config = self.config.take().unwrap_or_default();
        match self.slow_start {
            Some(window) => ServiceConfig::new().slow_start(window).over(&config),
            None => config,
        }
    }

    /// # Errors
    /// INVALID_ARGUMENT names the wrong setting.
    fn check(&self) -> Result<(), Status> {
        if let Some(message) = &self.wrong {
            return Err(wrong(message));
        }
        self.mux.check().map_err(|error| wrong(&error))?;
        if self.aperture.is_some() && self.zone.is_some() {
            return Err(wrong(
                &"`.aperture(..)` shares all endpoints evenly, and `.zone(..)` does not; leave out one of them",
            ));
        }
        if !(1..=CONNECTIONS_MAX).contains(&self.connections_per_endpoint) {
            return Err(wrong(&format_args!(
                "connections_per_endpoint is {}; it must be 1 to {CONNECTIONS_MAX}",
                self.connections_per_endpoint
            )));
        }
        check_duration("connect_timeout", self.connect_timeout).map_err(|error| wrong(&error))?;
        if let Some(health) = &self.health {
            if let Some(error) = &health.wrong {
                return Err(wrong(&format_args!("health_check: {error}")));
            }
            if let Some(every) = health.interval() {
                check_duration("health_check", every).map_err(|error| wrong(&error))?;
            }
        }
        if let Some(timeout) = self.calls.timeout {
            check_duration("timeout", timeout).map_err(|error| wrong(&error))?;
        }
        Ok(())
    }

    /// Makes the channel with byte streams from elsewhere; `target` is shown in errors.
    ///
    /// # Errors
    /// INVALID_ARGUMENT names the wrong setting.
    pub fn with_connector(self, target: &str, connector: impl Connector) -> Result<Channel, Status> {
        self.check()?;
        let subchannel = Subchannel::new(SubchannelConfig {
            target: target.to_owned(),
            connector: Box::new(connector),
            mux: MuxConfig {
                // There is no choice to make by it.
                load_interval: None,
                ..self.mux
            },
            backoff: self.backoff,
            connect_timeout: self.connect_timeout,
            health: HealthCheck::off(),
            is_extra: false,
            on_change: None,
        });
        Ok(Channel::remote(channel::Target::One(subchannel), self.calls))
    }

    /// Makes the channel and waits until it is ready, for the connect time-out at most; a server that is about to start is waited for.
    ///
    /// # Errors
    /// INVALID_ARGUMENT names the wrong target or setting; UNAVAILABLE tells why it could not be reached.
    pub async fn connect(self, target: &str) -> Result<Channel, Status> {
        let channel = self.lazy(target)?;
        channel.wait_ready().await?;
        Ok(channel)
    }

    fn duration(&mut self, name: &str, duration: Result<Duration, DurationError>) -> Option<Duration> {
        match duration {
            Ok(duration) => Some(duration),
            Err(error) => {
                self.wrong.get_or_insert_with(|| format!("{name}: {error}"));
                None
            }
        }
    }
}

/// How subchannels to the endpoints of a service are made. The registry says where they are; what they must offer and prove is the client's business.
struct Endpoints {
    dial: DialConfig,
    plaintext_allowed: bool,
    mux: MuxConfig,
    backoff: Backoff,
    connect_timeout: Duration,
    health: HealthCheck,
}

impl Endpoints {
    /// # Errors
    /// FAILED_PRECONDITION if the endpoint does not offer what the client demands.
    fn subchannel(&self, endpoint: &Endpoint, changed: Arc<Notify>) -> Result<SubchannelConfig, Status> {
        let mut diallers = Vec::new();
        let mut refused = None;
        for address in endpoint.addresses() {
            match self.dialler(address.clone().with_plaintext_allowed(self.plaintext_allowed)) {
                Ok(dialler) => diallers.push(dialler),
                Err(error) => refused = Some(error),
            }
        }
        if diallers.is_empty() {
            let why = refused.unwrap_or_else(|| "it has no address".to_owned());
            let message = format!("endpoint {:?} is not used: {why}", endpoint.name());
            return Err(Status::failed_precondition(message).with_handler_ran(HandlerRan::No));
        }
        Ok(SubchannelConfig {
            target: endpoint.name().to_owned(),
            connector: Box::new(Dial {
                diallers,
                timeout: self.connect_timeout,
            }),
            mux: self.mux.clone(),
            backoff: self.backoff,
            connect_timeout: self.connect_timeout,
            health: self.health.clone(),
            is_extra: false,
            on_change: Some(changed),
        })
    }

    fn dialler(&self, address: Address) -> Result<Dialler, String> {
        let dial = DialConfig {
            #[cfg(feature = "quic")]
            quic: self.dial.quic.clone().filter(|_| address.is_quic()),
            ..self.dial.clone()
        };
        #[cfg(feature = "tls")]
        if dial.tls.is_some() && !address.is_encrypted() {
            return Err(format!("{address} is not encrypted, which `.tls(..)` demands"));
        }
        Dialler::new(address, dial).map_err(|error| WithCauses(&error).to_string())
    }
}

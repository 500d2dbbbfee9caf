//! Settings of a server, and its start.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use tokio::sync::watch;

use super::admission::Admission;
use super::age::{Age, GRACE_DEFAULT};
use super::config::{self, ConfigPlaces};
use super::error::ServerError;
use super::health::ServerHealth;
use super::limits::CallLimits;
use super::load::{LoadMeter, ServerLoad};
use super::registration::RegistrationConfig;
use super::router::{Fallback, Router};
use super::shutdown::{Connections, Drain, Serving, Tasks};
use super::watchdog::Watchdog;
use super::{CONNECTIONS_MAX, HANDSHAKES_MAX, Shared, accept};
use crate::config::{ConfigSource, ServiceConfig};
use crate::discovery::supervised::Task;
use crate::discovery::{Instance, Registrar};
use crate::faults::Faults;
use crate::health::Health;
use crate::interceptor::{Chain, Interceptor};
use crate::mux::MuxConfig;
use crate::mux::config::{ConfigError, check_duration};
use crate::service::Service;
use crate::time::{DurationError, IntoDuration};
use crate::transport::Address;
use crate::transport::error::BindError;
use crate::transport::listen::{ListenConfig, Listener};
#[cfg(feature = "quic")]
use crate::transport::quic::ServerQuic;
#[cfg(feature = "tls")]
use crate::transport::tls::ServerTls;

/// Where servers begin: [`Server::builder`].
#[derive(Debug)]
pub struct Server(());

impl Server {
    /// A builder with the defaults.
    #[must_use]
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }
}

/// Builds a server. A wrong setting is reported when it starts.
///
/// # Examples
/// ```no_run
/// # mod sinew {
/// #     pub use sinew_core::server::{Drain, Server, ServerError};
/// #     pub use sinew_core::service::Service;
/// # }
/// use sinew::{Drain, Server, ServerError};
///
/// async fn run(orders: impl sinew::Service) -> Result<(), ServerError> {
///     Server::builder()
///         .service(orders)
///         .bind("127.0.0.1:4000")
///         .max_connections(1_000)
///         .drain(Drain::default().lame_duck("5s").within("30s"))
///         .shutdown_on_signals()
///         .serve()
///         .await
/// }
/// ```
pub struct ServerBuilder {
    services: Vec<Arc<dyn Service>>,
    fallback: Option<Arc<dyn Fallback>>,
    chain: Chain,
    mux: MuxConfig,
    connections_max: usize,
    bind: Vec<String>,
    handed_over: Vec<HandedOver>,
    dangerous_plaintext: bool,
    listen: ListenConfig,
    handshakes_max: usize,
    drain: Drain,
    signals: bool,
    registration: RegistrationConfig,
    configs: ConfigPlaces,
    faults: Option<Faults>,
    health: Health,
    load: ServerLoad,
    reports_load: bool,
    adaptive_concurrency: bool,
    trusts_priorities: bool,
    age: Option<Duration>,
    age_grace: Duration,
    wrong: Option<ServerError>,
}

/// A socket that was opened elsewhere.
enum HandedOver {
    Clear(std::net::TcpListener),
    #[cfg(feature = "tls")]
    Encrypted(std::net::TcpListener),
}

impl Default for ServerBuilder {
    fn default() -> Self {
        Self {
            services: Vec::new(),
            fallback: None,
            chain: Chain::default(),
            mux: MuxConfig::default(),
            connections_max: CONNECTIONS_MAX,
            bind: Vec::new(),
            handed_over: Vec::new(),
            dangerous_plaintext: false,
            listen: ListenConfig::default(),
            handshakes_max: HANDSHAKES_MAX,
            drain: Drain::default(),
            signals: false,
            registration: RegistrationConfig::default(),
            configs: ConfigPlaces::default(),
            faults: None,
            health: Health::default(),
            load: ServerLoad::default(),
            reports_load: true,
            adaptive_concurrency: true,
            trusts_priorities: false,
            age: None,
            age_grace: GRACE_DEFAULT,
            wrong: None,
        }
    }
}

impl ServerBuilder {
    /// Adds a service.
    #[must_use]
    pub fn service(mut self, service: impl Service) -> Self {
        self.services.push(Arc::new(service));
        self
    }

    /// Sets who answers calls of methods that no service has; without it they end with UNIMPLEMENTED.
    #[must_use]
    pub fn fallback(mut self, fallback: impl Fallback) -> Self {
        self.fallback = Some(Arc::new(fallback));
        self
    }

    /// Adds an interceptor around every call, inside those added before.
    #[must_use]
    pub fn interceptor(mut self, interceptor: impl Interceptor + 'static) -> Self {
        self.chain = self.chain.with(interceptor);
        self
    }

    /// Lets calls meet these [faults](crate::faults) before their handler, inside the interceptors added before, as [`interceptor`](Self::interceptor) would;
    /// and those that the configuration of their service sets ([`ServerPolicy::faults`](crate::config::ServerPolicy::faults)). For tests and game days.
    #[cfg(feature = "faults")]
    #[must_use]
    pub fn faults(mut self, faults: Faults) -> Self {
        self.chain = self.chain.with(faults.clone());
        self.faults = Some(faults);
        self
    }

    /// Adds an address to listen on: `host:port`, `tcp://host:port`, `tls://host:port`, `quic://host:port`, `quic+tcp://host:port` (QUIC and TLS, at one
    /// port), `unix:path` or `mem:name`; port 0 lets the system choose.
    ///
    /// `?dangerous_plaintext` behind it allows clear text on an address other than loopback, as [`dangerous_plaintext`](Self::dangerous_plaintext) does for
    /// all. The file of a unix socket on which nobody listens any more is replaced.
    #[must_use]
    pub fn bind(mut self, address: impl Into<String>) -> Self {
        self.bind.push(address.into());
        self
    }

    /// Adds a socket that is bound and listens already: from a service manager (socket activation), or a parent process.
    #[must_use]
    pub fn listener(mut self, listener: std::net::TcpListener) -> Self {
        self.handed_over.push(HandedOver::Clear(listener));
        self
    }

    /// As [`listener`](Self::listener), for connections that are encrypted as [`tls`](Self::tls) says.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls_listener(mut self, listener: std::net::TcpListener) -> Self {
        self.handed_over.push(HandedOver::Encrypted(listener));
        self
    }

    /// Sets the certificate for encrypted addresses, and which clients are let in there. On loopback a development certificate takes its place where none is
    /// set (feature `dev-tls`).
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.listen.tls = Some(tls);
        self
    }

    /// Sets how QUIC is spoken at `quic://` and `quic+tcp://` addresses.
    #[cfg(feature = "quic")]
    #[must_use]
    pub fn quic(mut self, quic: ServerQuic) -> Self {
        self.listen.quic = Some(quic);
        self
    }

    /// Sets how many connections may be in their TLS handshake at a time (default 1,024, at least 1). Above it, any one of them is
    /// closed: those that only hold a place are many then, and an honest one comes back.
    #[must_use]
    pub fn max_handshakes(mut self, handshakes: usize) -> Self {
        self.handshakes_max = handshakes;
        self
    }

    /// Allows clear text on addresses other than loopback.
    #[must_use]
    pub fn dangerous_plaintext(mut self) -> Self {
        self.dangerous_plaintext = true;
        self
    }

    /// Sets how many connections may be open (default 16,384, at least 1); further ones are closed at once.
    #[must_use]
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.connections_max = connections;
        self
    }

    /// Sets how many calls of one connection may run at a time (default 1,024); clients wait above it.
    ///
    /// Handlers that run side by side may all finish before their client takes the first answer, so this times the size of an answer is what one client
    /// can make the server hold: lower it where answers are large.
    #[must_use]
    pub fn max_calls_per_connection(mut self, calls: u32) -> Self {
        self.mux.max_streams = calls;
        self
    }

    /// Sets the largest request, or item of a stream, that is accepted, in bytes (default 4 MiB).
    #[must_use]
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.mux.max_message = bytes;
        self.mux.assembly_bytes_max = self.mux.assembly_bytes_max.max(bytes);
        self
    }

    /// Sets the largest metadata of a request, in bytes (default 16 KiB, 256 to 32,768).
    #[must_use]
    pub fn max_head_bytes(mut self, bytes: usize) -> Self {
        self.mux.max_head = bytes;
        self
    }

    /// Sets the time that a new connection has for its TLS handshake, and again for its HELLO (default 10 s).
    #[must_use]
    pub fn handshake_timeout(mut self, timeout: impl IntoDuration) -> Self {
        if let Some(timeout) = self.duration("handshake_timeout", timeout.into_duration()) {
            self.mux.handshake_timeout = timeout;
        }
        self
    }

    /// Sets the time without calls after which a connection is closed (default 30 min).
    #[must_use]
    pub fn idle_timeout(mut self, timeout: impl IntoDuration) -> Self {
        if let Some(timeout) = self.duration("idle_timeout", timeout.into_duration()) {
            self.mux.idle_timeout = Some(timeout);
        }
        self
    }

    /// Sets the silence after which a ping is sent while calls run (default 10 s; never before the peer's own least interval, by default 5 s), and the time
    /// to answer it (default 5 s). Each more than 0 and at most 365 days; off by [`limits`](Self::limits) only. Over QUIC it is sent without calls, too, and
    /// whatever the peer's interval.
    #[must_use]
    pub fn keepalive(mut self, interval: impl IntoDuration, timeout: impl IntoDuration) -> Self {
        let interval = self.duration("keepalive_interval", interval.into_duration());
        let timeout = self.duration("keepalive_timeout", timeout.into_duration());
        if let (Some(interval), Some(timeout)) = (interval, timeout) {
            self.mux.keepalive_interval = Some(interval);
            self.mux.keepalive_timeout = timeout;
        }
        self
    }

    /// Sets the age at which a connection's client is told to leave, give or take a tenth (default none; more than 0, at most 365 days): so clients spread anew over
    /// servers that came since. New calls go to a new connection, and none fails for it.
    #[must_use]
    pub fn max_connection_age(mut self, age: impl IntoDuration) -> Self {
        self.age = self.duration("max_connection_age", age.into_duration()).or(self.age);
        self
    }

    /// Sets the time that calls have to end on a connection that has reached its age (default 30 s, more than 0, at most 365 days); what is left then ends with
    /// UNAVAILABLE.
    #[must_use]
    pub fn max_connection_age_grace(mut self, grace: impl IntoDuration) -> Self {
        self.age_grace = self.duration("max_connection_age_grace", grace.into_duration()).unwrap_or(self.age_grace);
        self
    }

    /// Sets all limits of a connection at once, in place of what was set before.
    #[must_use]
    pub fn limits(mut self, limits: MuxConfig) -> Self {
        self.mux = limits;
        self
    }

    /// Sets how the server comes to an end.
    #[must_use]
    pub fn drain(mut self, drain: Drain) -> Self {
        self.drain = drain;
        self
    }

    /// Ends the server in order on SIGTERM and ctrl-c: after the lame-duck time ([`Drain`], 5 s by default) clients are told to leave, and running calls
    /// may end. A second signal ends everything at once.
    ///
    /// [`serve`](Self::serve) and [`Serving::wait`] listen to the signals; a server that was only started does not.
    #[must_use]
    pub fn shutdown_on_signals(mut self) -> Self {
        self.signals = true;
        self
    }

    /// Registers the server's services as soon as it serves, and for as long; several registries are kept at once. At a shutdown its entry is marked as
    /// draining first, and deleted after the lame-duck time.
    #[must_use]
    pub fn register(mut self, registrar: impl Registrar) -> Self {
        self.registration.registrars.push(Arc::new(registrar));
        self
    }

    /// Sets what the server says of itself in registries.
    #[must_use]
    pub fn instance(mut self, instance: Instance) -> Self {
        self.registration.instance = instance;
        self
    }

    /// Sets what the code says of the configuration of the service of that name: its limits ([`ServiceConfig::server`]); what clients do is not this server's
    /// business. Further ones of the same service, and those of [`config_source`](Self::config_source), lie over it. A service that is not there is an error
    /// when the server starts.
    #[must_use]
    pub fn service_config(mut self, service: impl Into<String>, config: ServiceConfig) -> Self {
        self.configs.set(service.into(), config);
        self
    }

    /// Adds a place where the configuration of services is followed while the server runs: `source` is asked once for each of them, by its name. What it says
    /// lies over those added before and what the code says, and holds for calls that come from then on. The server starts when all of it is known, or after
    /// half a second without what is missing; what cannot be read changes nothing, and
    /// [`ServerSnapshot::config_failures`](super::ServerSnapshot::config_failures) says why.
    ///
    /// # Examples
    /// ```no_run
    /// # mod sinew {
    /// #     pub use sinew_core::config::FileConfig;
    /// #     pub use sinew_core::server::Server;
    /// # }
    /// use sinew::{FileConfig, Server};
    ///
    /// // With `{"server": {"rate_limit": {"calls": 500, "key": "peer"}}}` in `/etc/shop/shop.Orders.json`:
    /// let server = Server::builder().config_source(|service| FileConfig::new(format!("/etc/shop/{service}.json")));
    /// # let _ = server;
    /// ```
    #[must_use]
    pub fn config_source<S: ConfigSource>(mut self, source: impl Fn(&str) -> S + Send + Sync + 'static) -> Self {
        self.configs.add(source);
        self
    }

    /// Sets what the server says of its health and its services' (default: all of them serve), to everybody who asks `sinew.Health`, and so to every client of
    /// a service with several endpoints. Keep a clone to change it.
    #[must_use]
    pub fn health(mut self, health: Health) -> Self {
        self.health = health;
        self
    }

    /// Sets what the server says of its load (default: the part of the processors' time that its process takes, on Linux) to clients of a service with several
    /// endpoints, with some of its answers. Keep a clone to change it.
    #[must_use]
    pub fn load(mut self, load: ServerLoad) -> Self {
        self.load = load;
        self
    }

    /// Sets whether clients that ask are told of the server's load (default: yes): not for servers whose clients are not to know how much they have to do.
    #[must_use]
    pub fn report_load(mut self, report: bool) -> Self {
        self.reports_load = report;
        self
    }

    /// Sets whether calls wait, and are turned away, when the server has more to do than it can (default: yes).
    ///
    /// There is no limit until calls stand in line for each other: as long as more calls in flight means that more are answered, none is turned away, however
    /// many there are. Then each method gets a limit that it finds by itself and that keeps the line short; what is above it waits, the highest
    /// priority first. A burst has time: each call waits for 8 ms (192 ms if [`Critical`](crate::priority::Priority::Critical)) and a quarter of what its caller has beyond
    /// 250 ms, but for no more than half of its time or 2.5 s. From the moment at which one of those that have time waits in vain, or the oldest for half of what it would
    /// while they do not become fewer, until a second after the last, there is an overload: calls that come wait for the 8 ms only, and who does not get its turn
    /// soon learns that it has to go elsewhere. It ends with RESOURCE_EXHAUSTED and the policy `adaptive_concurrency`; so does a call that comes when 16,384
    /// wait before a method, unless it matters more. The limit goes when it was not reached for 10 s.
    /// Streams, [`fallback`](Self::fallback) and health are outside. [`ServerMonitor::set_adaptive_concurrency`](super::ServerMonitor::set_adaptive_concurrency) switches it while
    /// calls run, and so does a service's configuration, for all its methods or for one.
    #[must_use]
    pub fn adaptive_concurrency(mut self, limit: bool) -> Self {
        self.adaptive_concurrency = limit;
        self
    }

    /// Takes every client's word for the priority of its calls. Without this, those of clients that did not prove who they are (with a certificate, over TLS)
    /// are at most [`Normal`](crate::priority::Priority::Normal): for a network in which all clients are one's own.
    #[must_use]
    pub fn trust_priorities(mut self) -> Self {
        self.trusts_priorities = true;
        self
    }

    /// Starts the server; it runs until the returned handle is shut down or dropped. Without an address it serves what is handed over by
    /// [`Serving::accept`].
    ///
    /// # Errors
    /// [`ServerError`] names the setting, method or address that is wrong; nothing is left running then.
    pub async fn start(mut self) -> Result<Serving, ServerError> {
        if let Some(wrong) = self.wrong {
            return Err(wrong);
        }
        self.mux.check()?;
        self.drain.check()?;
        self.check_limits()?;
        let (router, health) = routes(self.services, self.fallback, self.health)?;
        let configs = self.configs.layers(&router)?;
        let parsed: Result<Vec<Address>, _> = self.bind.iter().map(|text| text.parse()).collect();
        let addresses = parsed.map_err(BindError::from)?;
        #[cfg(feature = "tls")]
        {
            let used = addresses.iter().any(|address| address.is_encrypted())
                || self.handed_over.iter().any(|listener| matches!(listener, HandedOver::Encrypted(_)));
            if self.listen.tls.is_some() && !used {
                return Err(BindError::TlsUnused.into());
            }
        }
        self.listen.limits = self.mux.clone();
        #[cfg(feature = "quic")]
        if let Some(quic) = &self.listen.quic {
            quic.check()?;
            if !addresses.iter().any(Address::is_quic) {
                return Err(BindError::QuicUnused.into());
            }
        }
        let mut opened = Vec::new();
        for mut address in addresses {
            if self.dangerous_plaintext {
                address = address.with_dangerous_plaintext();
            }
            opened.extend(Listener::bind_all(&address, &self.listen).await?);
        }
        for listener in self.handed_over {
            opened.push(match listener {
                HandedOver::Clear(listener) => Listener::from_tcp(listener, self.dangerous_plaintext)?,
                #[cfg(feature = "tls")]
                HandedOver::Encrypted(listener) => Listener::from_tcp_with_tls(listener, &self.listen)?,
            });
        }
        let shared = Arc::new(Shared {
            admission: Arc::new(Admission::new(&router, self.adaptive_concurrency)),
            limits: CallLimits::new(&router),
            configs,
            faults: self.faults,
            trusts_priorities: self.trusts_priorities,
            router,
            health,
            load: LoadMeter::new(self.load, self.reports_load),
            chain: self.chain,
            mux: self.mux,
            connections_max: self.connections_max,
            age: self.age.map(|max| Age {
                max,
                grace: self.age_grace,
            }),
            turned_away: accept::LogGate::default(),
            handshakes: accept::Handshakes::new(self.handshakes_max),
            tasks: Arc::new(Tasks::default()),
            watchdog: Arc::new(Watchdog::default()),
            running: AtomicUsize::new(0),
            panics: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
        });
        let followed = config::follow(&shared).await;
        let mut serving = launch(shared, opened, self.drain, self.signals, followed);
        serving.register(self.registration)?;
        Ok(serving)
    }

    /// Starts the server, logs what it bound, and runs it until it is told to end.
    ///
    /// # Errors
    /// [`ServerError`] names what is wrong.
    pub async fn serve(self) -> Result<(), ServerError> {
        if self.wrong.is_none() && self.bind.is_empty() && self.handed_over.is_empty() {
            return Err(ServerError::NoAddress);
        }
        self.start().await?.wait().await
    }

    fn check_limits(&self) -> Result<(), ConfigError> {
        for (name, value) in [
            ("max_connections", self.connections_max),
            ("max_handshakes", self.handshakes_max),
        ] {
            if value == 0 {
                return Err(ConfigError::new(name, 0, "at least 1"));
            }
        }
        if let Some(age) = self.age {
            check_duration("max_connection_age", age)?;
        }
        check_duration("max_connection_age_grace", self.age_grace)
    }

    fn duration(&mut self, field: &'static str, duration: Result<Duration, DurationError>) -> Option<Duration> {
        match duration {
            Ok(duration) => Some(duration),
            Err(source) => {
                self.wrong.get_or_insert(ServerError::Duration { field, source });
                None
            }
        }
    }
}

/// The table of methods, the server's own among them.
fn routes(
    services: Vec<Arc<dyn Service>>,
    fallback: Option<Arc<dyn Fallback>>,
    said: Health,
) -> Result<(Router, ServerHealth), ServerError> {
    let mut router = Router::default();
    for service in services {
        router.add(service)?;
    }
    router.fallback = fallback;
    if router.is_empty() {
        return Err(ServerError::NoService);
    }
    let health = ServerHealth::new(said, router.all_names(), router.fallback.is_some());
    router.add_built_in(health.clone())?;
    Ok((router, health))
}

fn launch(shared: Arc<Shared>, opened: Vec<Listener>, drain: Drain, signals: bool, followed: Vec<Task>) -> Serving {
    let connections = Arc::new(Connections::default());
    let closing = watch::Sender::new(false);
    let addresses: Vec<Address> = opened.iter().map(|listener| listener.bound().clone()).collect();
    for address in &addresses {
        tracing::info!(%address, "listening");
    }
    let listeners = opened
        .into_iter()
        .map(|listener| {
            let accepting = accept::run(
                listener,
                Arc::clone(&shared),
                Arc::clone(&connections),
                closing.subscribe(),
            );
            tokio::spawn(accepting)
        })
        .collect();
    shared.watchdog.start(&shared.tasks);
    Serving {
        shared,
        connections,
        addresses,
        drain,
        closing,
        listeners,
        signals,
        registration: None,
        _followed: followed,
    }
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("services", &self.services.len())
            .field("bind", &self.bind)
            .field("limits", &self.mux)
            .field("drain", &self.drain)
            .finish_non_exhaustive()
    }
}

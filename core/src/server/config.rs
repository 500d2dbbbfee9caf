//! A server's part in the configuration of its services: followed while it runs, applied while calls come.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Shared;
use super::error::ServerError;
use super::limits::of_service;
use super::router::Router;
use crate::config::layers::Layers;
use crate::config::{ConfigSource, ServerPolicy, ServiceConfig};
use crate::discovery::nearest::nearest;
use crate::discovery::supervised::{Task, persist};
use crate::policy::backoff::Backoff;

/// Finds the source for a service of that name.
type SourceOf = dyn Fn(&str) -> Arc<dyn ConfigSource> + Send + Sync;

/// Where a server's configuration is.
#[derive(Default)]
pub(super) struct ConfigPlaces {
    in_code: BTreeMap<String, ServiceConfig>,
    sources: Vec<Box<SourceOf>>,
}

/// The configuration of each service.
#[derive(Default)]
pub(super) struct Configs(BTreeMap<String, Layers>);

impl ConfigPlaces {
    /// Lays `config` of a service over what was set before.
    pub(super) fn set(&mut self, service: String, config: ServiceConfig) {
        let below = self.in_code.remove(&service).unwrap_or_default();
        self.in_code.insert(service, config.over(&below));
    }

    pub(super) fn add<S: ConfigSource>(&mut self, source: impl Fn(&str) -> S + Send + Sync + 'static) {
        self.sources.push(Box::new(move |service| Arc::new(source(service))));
    }

    /// The configuration of the services of `router`.
    ///
    /// # Errors
    /// A service that is configured is none of them.
    pub(super) fn layers(mut self, router: &Router) -> Result<Configs, ServerError> {
        if self.in_code.is_empty() && self.sources.is_empty() {
            return Ok(Configs::default());
        }
        let names = router.names();
        let layers = names.iter().map(|name| {
            let sources = self.sources.iter().map(|source| source(name)).collect();
            let in_code = self.in_code.remove(name).unwrap_or_default();
            (name.clone(), Layers::new(in_code, sources))
        });
        let configs = Configs(layers.collect());
        match self.in_code.into_keys().next() {
            None => Ok(configs),
            Some(service) => {
                let known: Vec<&str> = names.iter().map(String::as_str).collect();
                let meant = nearest(&service, &known).map(str::to_owned);
                Err(ServerError::NotServed { service, meant })
            }
        }
    }
}

impl Configs {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What of it does not hold, and why.
    pub(super) fn failures(&self, router: &Router) -> Vec<String> {
        self.0.iter().flat_map(|(service, layers)| failures_of(router, service, layers)).collect()
    }
}

fn failures_of(router: &Router, service: &str, layers: &Layers) -> Vec<String> {
    let failed = layers.failures().into_iter().map(|failure| failure.to_string());
    let silent = layers.has_silent_source().then(|| "nothing is known of one of its sources yet".to_owned());
    let strange = unknown_methods(router, service, &layers.merged().server).into_iter().map(|(method, meant)| {
        let hint = meant.map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default();
        format!("`server.methods.{method}` is no method here{hint}")
    });
    failed.chain(silent).chain(strange).map(|failure| format!("{service}: {failure}")).collect()
}

/// Methods that a configuration names and that are not there, and those that may be meant. No error: another version of the server may have them.
fn unknown_methods(router: &Router, service: &str, policy: &ServerPolicy) -> Vec<(String, Option<&'static str>)> {
    let names: Vec<&'static str> = of_service(router, service).map(|(_, route)| route.spec.name()).collect();
    let unknown = policy.methods.keys().filter(|method| !names.contains(&method.as_str()));
    unknown.map(|method| (method.clone(), nearest(method, &names))).collect()
}

/// Begins to follow the configuration of all services; returns when all of it is known or took too long.
pub(super) async fn follow(shared: &Arc<Shared>) -> Vec<Task> {
    let (mut tasks, mut known) = (Vec::new(), Vec::new());
    for service in shared.configs.0.keys() {
        let is_known = watch::Sender::new(false);
        known.push(is_known.subscribe());
        tasks.push(Task::new(tokio::spawn(follow_one(
            Arc::clone(shared),
            service.clone(),
            Arc::new(is_known),
        ))));
    }
    for mut known in known {
        // An error is the end of its task, so nothing is to be waited for.
        let _ended = known.wait_for(|is_known| *is_known).await;
    }
    tasks
}

/// Follows that of one service; begun anew if it panics, which a subscriber of its log lines can make it do.
async fn follow_one(shared: Arc<Shared>, service: String, is_known: Arc<watch::Sender<bool>>) {
    let run = || run(Arc::clone(&shared), service.clone(), Arc::clone(&is_known));
    let panicked = || {
        is_known.send_replace(true);
    };
    persist(Backoff::DEFAULT, run, panicked).await;
}

async fn run(shared: Arc<Shared>, service: String, is_known: Arc<watch::Sender<bool>>) {
    let Some(layers) = shared.configs.0.get(&service) else {
        return;
    };
    let mut following = layers.follow(Backoff::DEFAULT);
    // Unknown: this may be begun anew.
    let mut applied = None;
    loop {
        let merged = layers.merged();
        if applied.as_ref() != Some(&merged.server) {
            apply(&shared, &service, &merged.server);
            applied = Some(merged.server.clone());
        }
        let wait_until = following.waits_until(Instant::now());
        if wait_until.is_none() {
            is_known.send_replace(true);
        }
        let is_late = async {
            match wait_until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        // Both are cancel safe.
        tokio::select! {
            () = following.changed() => {}
            () = is_late => {
                tracing::warn!(service, "the configuration of a service is late; the server starts without what is missing");
            }
        }
    }
}

fn apply(shared: &Arc<Shared>, service: &str, policy: &ServerPolicy) {
    tracing::info!(service, "a configuration of the service counts for its calls here");
    for (method, meant) in unknown_methods(&shared.router, service, policy) {
        tracing::warn!(service, method, meant, "a method is configured that is not there");
    }
    shared.limits.apply(&shared.router, service, policy);
    if let Some(faults) = &shared.faults {
        let wanted = policy.faults.iter().flatten().map(|fault| fault.clone().of_service(service));
        faults.configure_servers(service, wanted.collect());
    }
    for (at, route) in of_service(&shared.router, service) {
        shared.admission.set(at, policy.is_adaptive(route.spec.name()));
    }
}

impl fmt::Debug for ConfigPlaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigPlaces").field("in_code", &self.in_code).finish_non_exhaustive()
    }
}

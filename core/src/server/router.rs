//! Method id -> service and method.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasherDefault, Hasher};
use std::pin::Pin;
use std::sync::Arc;

use crate::context::Cx;
use crate::message::Outcome;
use crate::method::{MethodKind, MethodSpec};
use crate::policy::inline::InlineGate;
use crate::service::{ServerRequest, Service};

/// Answers calls of methods that no service has.
pub trait Fallback: Send + Sync + 'static {
    /// Answers one call; the context tells id and, if the caller sent it, path.
    fn call(&self, cx: Cx, request: ServerRequest) -> Pin<Box<dyn Future<Output = Outcome> + Send>>;
}

impl<F, R> Fallback for F
where
    F: Fn(Cx, ServerRequest) -> R + Send + Sync + 'static,
    R: Future<Output = Outcome> + Send + 'static,
{
    fn call(&self, cx: Cx, request: ServerRequest) -> Pin<Box<dyn Future<Output = Outcome> + Send>> {
        Box::pin(self(cx, request))
    }
}

/// Where a method is found.
pub(super) struct Route {
    pub(super) service: usize,
    pub(super) spec: &'static MethodSpec,
    pub(super) gate: InlineGate,
    /// The server's own: outside its interceptors and its counts.
    pub(super) is_built_in: bool,
}

impl Route {
    /// Whether its calls may be turned away when there is too much to do: not those that stream, which last for as long as they like.
    pub(super) fn is_admitted(&self) -> bool {
        !self.is_built_in && self.spec.kind() == MethodKind::Unary
    }
}

#[derive(Default)]
pub(super) struct Router {
    services: Vec<Arc<dyn Service>>,
    routes: Vec<Route>,
    by_id: HashMap<u64, usize, BuildHasherDefault<MethodHasher>>,
    pub(super) fallback: Option<Arc<dyn Fallback>>,
    limits_time: bool,
}

/// Two methods that cannot be told apart on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collision {
    /// The path that was there first.
    pub first: String,
    /// The path that collides with it.
    pub second: String,
}

impl fmt::Display for Collision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, second } = self;
        if first == second {
            return write!(
                f,
                "{first} is served twice: add each service once, or give one of two traits with the same name another by `#[service(name = \"..\")]`"
            );
        }
        write!(
            f,
            "{first} and {second} have the same id on the wire; rename one with `#[service(name = ..)]` or `#[rpc(name = ..)]`"
        )
    }
}

impl std::error::Error for Collision {}

impl Router {
    pub(super) fn add(&mut self, service: Arc<dyn Service>) -> Result<(), Collision> {
        self.put(service, false)
    }

    /// Adds a service of the server itself.
    pub(super) fn add_built_in(&mut self, service: impl Service) -> Result<(), Collision> {
        self.put(Arc::new(service), true)
    }

    fn put(&mut self, service: Arc<dyn Service>, is_built_in: bool) -> Result<(), Collision> {
        let index = self.services.len();
        for spec in service.methods() {
            let route = self.routes.len();
            self.limits_time |= spec.timeout().is_some();
            self.routes.push(Route {
                service: index,
                spec,
                gate: InlineGate::default(),
                is_built_in,
            });
            self.insert(spec.id(), spec.path(), route)?;
            for alias in spec.other_names() {
                self.insert(alias.id(), alias.path(), route)?;
            }
        }
        self.services.push(service);
        Ok(())
    }

    fn insert(&mut self, id: u64, path: &str, route: usize) -> Result<(), Collision> {
        match self.by_id.insert(id, route) {
            None => Ok(()),
            Some(known) => Err(Collision {
                first: self.routes[known].spec.path().to_owned(),
                second: path.to_owned(),
            }),
        }
    }

    /// The index of the route of a method id.
    pub(super) fn find(&self, id: u64) -> Option<usize> {
        self.by_id.get(&id).copied()
    }

    /// Whether any method has a time-out of its own.
    pub(super) fn limits_time(&self) -> bool {
        self.limits_time
    }

    pub(super) fn route(&self, index: usize) -> Option<&Route> {
        self.routes.get(index)
    }

    pub(super) fn routes(&self) -> &[Route] {
        &self.routes
    }

    pub(super) fn service(&self, index: usize) -> Option<&Arc<dyn Service>> {
        self.services.get(index)
    }

    /// The names of all services but the server's own.
    pub(super) fn names(&self) -> BTreeSet<String> {
        let own = self.routes.iter().filter(|route| !route.is_built_in);
        own.map(|route| route.spec.service().to_owned()).collect()
    }

    /// The names under which services answer, those of aliases included.
    pub(super) fn all_names(&self) -> BTreeSet<String> {
        let own = self.routes.iter().filter(|route| !route.is_built_in);
        let aliases = own.flat_map(|route| route.spec.other_names());
        let aliases = aliases.filter_map(|alias| Some(alias.path().split_once('/')?.0.to_owned()));
        aliases.chain(self.names()).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.services.is_empty() && self.fallback.is_none()
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut paths: Vec<_> = self.routes.iter().map(|route| route.spec.path()).collect();
        paths.sort_unstable();
        f.debug_list().entries(paths).finish()
    }
}

/// Method ids are hashes already, and the table holds only what this process registered.
#[derive(Default)]
pub(super) struct MethodHasher(u64);

impl Hasher for MethodHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::Router;
    use crate::method::{MethodKind, MethodSpec, method_id};
    use crate::service::{BoxSlot, Service, slot};
    use crate::status::Status;

    struct Named(&'static [MethodSpec]);

    impl Service for Named {
        fn methods(&self) -> &'static [MethodSpec] {
            self.0
        }

        fn slot(&self) -> BoxSlot {
            slot(|_, _, _| async { Err(Status::internal("not called")) })
        }
    }

    const fn get(path: &'static str) -> MethodSpec {
        MethodSpec::new(path, method_id(path), MethodKind::Unary)
    }

    #[test]
    fn services_that_collide_are_named() {
        static FIRST: [MethodSpec; 1] = [get("8yn0iYCKYHlIj4-BwPqk/get")];
        static SECOND: [MethodSpec; 1] = [get("GReLUrM4wMqfg9yzV3KQ/get")];
        let mut router = Router::default();
        router.add(Arc::new(Named(&FIRST))).unwrap();
        let collision = router.add(Arc::new(Named(&SECOND))).unwrap_err();
        assert_eq!(collision.first, "8yn0iYCKYHlIj4-BwPqk/get");
        assert_eq!(collision.second, "GReLUrM4wMqfg9yzV3KQ/get");
    }
}

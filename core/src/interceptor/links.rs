//! Interceptors that a service made when it was built: `rate_limit(500)` runs once per server instance.

use std::any::Any;
use std::fmt;

use super::Interceptor;

/// The constructed interceptors of one service, found again by the function that made them.
///
/// The type of a constructed interceptor need not have a name: the function item that made it stands for it.
#[derive(Default)]
pub struct Links {
    made: Vec<Box<dyn Any + Send + Sync>>,
}

impl Links {
    /// Makes an interceptor and keeps it.
    pub fn push<T: Interceptor + 'static>(&mut self, make: fn() -> T) {
        self.made.push(Box::new(make()));
    }

    /// The interceptor that the `index`-th [`push`](Self::push) made, with the same function.
    ///
    /// # Panics
    /// If another function stands at `index`; generated code keeps them in step.
    #[must_use]
    pub fn get<T: Interceptor + 'static>(&self, index: usize, _made_by: fn() -> T) -> &T {
        match self.made.get(index).and_then(|made| made.downcast_ref()) {
            Some(found) => found,
            None => panic!("generated code asks for the interceptors that it made, in the same order"),
        }
    }
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Links({})", self.made.len())
    }
}

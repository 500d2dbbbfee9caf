//! One call: what goes in, what comes out, what may be asked for, and what happens when a handler panics.

mod blocking;
mod kinds;
mod options;
mod panics;
mod passed_on;
mod routing;

//! Pure decisions: `now`, elapsed times and seeds come in as arguments, a verdict goes out.

pub mod aperture;
pub mod backoff;
pub mod breaker;
pub mod concurrency;
pub(crate) mod faults;
pub mod hedging;
pub mod inline;
pub mod load;
pub mod loss;
mod marks;
pub mod outlier;
pub mod rate;
pub mod reported;
pub mod retry;
pub mod ring;
pub mod schedule;
pub mod shrink;
pub mod spill;
pub mod subset;
pub mod throttle;
pub(crate) mod verdict;
pub mod warmup;

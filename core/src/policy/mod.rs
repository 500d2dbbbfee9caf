//! Pure decisions: `now`, elapsed times and seeds come in as arguments, a verdict goes out.

pub mod backoff;
pub mod inline;
pub mod load;
pub mod loss;
pub mod ring;
pub mod schedule;
pub mod shrink;
pub mod subset;
pub mod warmup;

//! Tests of the mux: two of them back to back with a virtual clock, and one against hand-made frames.

mod calls;
mod credit;
mod documented;
mod end;
mod hostile;
mod limits;
mod pair;
mod properties;
mod raw;
mod rules;
mod unread;
mod whole;

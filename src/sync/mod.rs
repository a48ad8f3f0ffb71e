//! What threads share on the way of a record: atomics, fences, a thread that is parked, rings, wakers, notifications.
//!
//! Modules take these from here and not from where they are defined, so that `tests/loom.rs` can run them as they are
//! on loom, which tries the orders in which threads may run and the values that the memory model lets a load return.
//! Without the feature `loom`, which nothing but that test is built with, this module is a list of other names.

#[cfg(not(feature = "loom"))]
mod machine;
#[cfg(feature = "loom")]
mod model;

#[cfg(not(feature = "loom"))]
pub use machine::*;
#[cfg(feature = "loom")]
pub use model::*;

//! The drain: one thread that hands each queue's records to its sink at the queue's rate.
//!
//! What decides is pure: [`pacer`] (when), [`retry`] (when again), [`meter`] (how fast it
//! was). What acts: [`feed`] (where records come from), [`dead_letters`] (where refused
//! ones go), [`pause`] (the mark that
//! nothing is to leave), [`scheduler`] (how it waits) and [`runner`] (all of it, for one queue).

pub mod dead_letters;
pub mod feed;
pub mod meter;
pub mod pacer;
pub mod pause;
pub mod retry;
pub mod runner;
pub mod scheduler;

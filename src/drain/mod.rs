//! The drain: one thread that hands each queue's records to its sink at the queue's rate.
//!
//! What decides is pure: [`pacer`] (when), [`window`] (which, if not the oldest), [`adaptive`] (how much less than the ceiling),
//! [`retry`] (when again), [`breaker`] (how much then), [`meter`] (how fast it was), all of
//! it kept together by `course`. What acts: [`feed`] (where records come from), `lot` (what
//! goes at once), [`dead_letters`] (where refused ones go), [`pause`] (the mark that nothing is
//! to leave), [`begin`] (where a new sink begins), [`scheduler`] (how it waits) and [`runner`] (all of it, for one queue).

pub mod adaptive;
pub mod breaker;
pub mod begin;
mod course;
pub mod dead_letters;
pub mod feed;
mod lot;
pub mod meter;
pub mod pacer;
pub mod pause;
pub mod retry;
pub mod runner;
pub mod scheduler;
pub mod window;

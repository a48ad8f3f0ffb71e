//! The journal: what makes an acknowledgement true.
//!
//! What decides is pure: [`format`] (the bytes), [`append`] (sequences and batches),
//! [`scan`] (where a log ends), [`idempotency`] (keys), `gathering` (when to commit). What acts is
//! thin: [`writer`] (the journal thread), [`uring`] (writes and syncs), `idle` (who else wants
//! the cores), [`recovery`], [`maintenance`] (the thread for everything beside the way of a record) and the files.
//!
//! The tools look at the same files from outside: [`survey`] and [`segment_image`] read them, [`salvage`]
//! finds what is whole among what is damaged, [`summary`] puts it into figures, [`verify`] checks all of it, and
//! [`repair`] puts a segment without the damage ([`rewrite`]) in a damaged one's place.

pub mod append;
pub mod catalogue;
pub mod cursor;
pub mod directory;
pub mod findings;
pub mod format;
mod gathering;
pub mod idempotency;
mod idle;
pub mod keys_file;
pub mod listing;
pub mod maintenance;
pub mod platform;
pub mod pool;
pub mod records;
pub mod recovery;
pub mod repair;
pub mod rewrite;
pub mod salvage;
pub mod scan;
pub mod segment_file;
pub mod segment_image;
pub mod summary;
pub mod survey;
pub mod uring;
pub mod verify;
pub mod writer;

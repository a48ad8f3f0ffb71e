//! Faults of a real kernel: full disks, disks that turn read-only, failed writes and syncs, cuts of the power. They run
//! on loop-mounted ext4 and XFS and on a FUSE file system of the tests' own; `docs/testing.md` explains them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_errors_doc,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    missing_docs,
    reason = "a test that cannot go on should panic, and is its own documentation"
)]
#![allow(clippy::disallowed_methods, reason = "a test has no bell to be woken by")]

#[path = "../server/mod.rs"]
mod server;

mod access;
mod errors;
mod fuse;
mod load;
mod mount;
mod power;
mod random;
mod read_only;
mod space;
mod volatile_disk;

use server::Site;

/// Where the database of a test is that concerns the journal's disk alone, and a table in which a duplicate would be seen.
fn table_elsewhere(site: &Site) -> (std::path::PathBuf, String) {
    let path = site.path().join("orders.db");
    server::database::sqlite_execute(&path, load::TABLE);
    let sink = format!("[queues.orders.sink]\nurl = \"sqlite:{}\"\n{}", path.display(), load::COLUMNS);
    (path, sink)
}

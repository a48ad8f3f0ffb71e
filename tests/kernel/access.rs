//! Data directories that the server may not use.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use super::server::Site;

/// Nobody's user and group, on every Linux.
const NOBODY: u32 = 65_534;

/// Starts as a user who may do nothing with the data directory; returns what was said.
fn refused_to_nobody(site: &mut Site) -> String {
    site.run_as(NOBODY);
    let (code, log) = site.start_refused();
    assert_eq!(code, Some(1), "{log}");
    for part in [site.data().to_str().unwrap(), "Permission denied"] {
        assert!(log.contains(part), "{part:?} is not in\n{log}");
    }
    assert!(!log.contains("panicked"), "{log}");
    log
}

#[test]
fn a_data_directory_without_permission_is_named() {
    let mut site = Site::new("[queues.orders]\nrate = \"1/h\"\n");
    let server = site.start();
    server.client().accept("orders", "kept");
    server.stop();
    // Not even to be looked into; then to be looked at, but not written.
    for mode in [0o700, 0o755] {
        fs::set_permissions(site.data(), Permissions::from_mode(mode)).unwrap();
        refused_to_nobody(&mut site);
        let (code, _, wrong) = site.tool("inspect", &[]);
        assert!(code == Some(0) || wrong.contains("Permission denied"), "{code:?} {wrong}");
    }
    // The segments belong to root alone, while the directory is everybody's.
    let queue = site.queue("orders");
    for path in [site.data(), site.data().join("queues"), queue.clone()] {
        fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    }
    for entry in fs::read_dir(&queue).unwrap() {
        fs::set_permissions(entry.unwrap().path(), Permissions::from_mode(0o600)).unwrap();
    }
    refused_to_nobody(&mut site);
}

#[test]
fn a_place_where_no_data_directory_can_be_made_is_named() {
    let mut site = Site::new("[queues.orders]\nrate = \"1/h\"\n");
    refused_to_nobody(&mut site);
    assert!(!site.data().exists());
}

//! An executor that loses its core to others at the worst moment goes on when it has it again.

use std::path::Path;
use std::process::Command;

use super::*;

/// Compiles `lost_core.c`, which says what it does, and has this site's servers load it.
fn preload(site: &mut Site) {
    let library = site.path().join("lost_core.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/http/lost_core.c");
    let mut compiler = Command::new("gcc");
    compiler.args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"]).arg(&library).arg(source);
    let output = compiler.output().expect("gcc, which builds forebay too: apt-get install gcc");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    site.set_environment("LD_PRELOAD", library.to_str().unwrap());
}

#[test]
fn an_executor_that_loses_its_core_at_the_worst_moment_goes_on() {
    let mut site = Site::new(UNLIMITED);
    preload(&mut site);
    let server = site.start();
    let mut client = server.client();
    for number in 0..3 {
        // The executor sleeps again meanwhile, and the next request has to wake it.
        let ticket = client.accept("orders", format!("{number}"));
        server.until_delivered(&ticket);
    }
    let rows = until_sqlite_has(&site.database("orders"), 3, "SELECT body FROM forebay_orders");
    assert_eq!(rows, ["0", "1", "2"]);
    server.stop();
}

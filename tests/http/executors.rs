//! Executors that lose their core, or their wake-up, and the signal that wakes them.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;

const CLIENTS: usize = 4;
/// Of each client.
const REQUESTS: usize = 500;

/// Compiles `executors.c`, which says what it does, and has this site's servers load it.
fn preload(site: &mut Site, variable: &str, value: &str) {
    let library = site.path().join("executors.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/http/executors.c");
    let mut compiler = Command::new("gcc");
    compiler.args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"]).arg(&library).arg(source);
    let output = compiler.output().expect("gcc, which builds forebay too: apt-get install gcc");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    site.set_environment("LD_PRELOAD", library.to_str().unwrap());
    site.set_environment(variable, value);
}

#[test]
fn an_executor_that_loses_its_core_at_the_worst_moment_goes_on() {
    let mut site = Site::new(UNLIMITED);
    // A timer of 10 ms has run out then.
    preload(&mut site, "TAKE_THE_CORE_MS", "15");
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

/// From its next sleep on, the executor is woken by signals alone. Returns when it sleeps.
fn lose_a_wake_up(order: &Path) {
    fs::write(order, "").unwrap();
    eventually("the executor's sleep", || (!order.exists()).then_some(()));
}

#[test]
fn an_executor_that_has_lost_its_wake_up_is_woken() {
    let mut site = Site::new(UNLIMITED);
    let order = site.path().join("lose-a-wake-up");
    preload(&mut site, "LOSE_A_WAKE_UP", order.to_str().unwrap());
    let server = site.start();
    let mut client = server.client();
    client.accept("orders", "before");

    lose_a_wake_up(&order);
    let ticket = client.accept("orders", "meanwhile");
    server.until_delivered(&ticket);
    server.until_said("an executor has not ticked for");
    server.until_said("the executor ticks again");
    assert!(server.metric("forebay_executor_wakeups_total") >= 1, "{}", server.metrics());

    // Nor does a stop wait for ever.
    lose_a_wake_up(&order);
    server.stop();
    assert_eq!(sqlite_rows(&site.database("orders"), "SELECT count(*) FROM forebay_orders"), [["2"]]);
}

/// The executor's threads: its own, and those in which glommio makes blocking calls.
fn executor_threads(server: &Server) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{}/task", server.process_id())).unwrap();
    let paths = tasks.map(|task| task.unwrap().path());
    let is_executor = |name: String| name.starts_with("ingress-");
    // Some other thread may end meanwhile.
    let executors = paths.filter(|path| fs::read_to_string(path.join("comm")).is_ok_and(is_executor));
    executors.map(|path| path.file_name().unwrap().to_str().unwrap().parse().unwrap()).collect()
}

/// Sends the watchdog's signal to these threads for as long as `goes_on`; returns how often.
fn storm(process: u32, threads: &[u32], goes_on: &AtomicBool) -> u64 {
    let mut signals = 0;
    while goes_on.load(Ordering::Relaxed) {
        for thread in threads {
            // SAFETY: the call takes three numbers and no address.
            let result = unsafe { libc::syscall(libc::SYS_tgkill, process, *thread, libc::SIGURG) };
            signals += u64::from(result == 0);
        }
        thread::yield_now();
    }
    signals
}

/// Small bodies take the fast path, large ones go through hyper in several reads; now and then the connection is another.
fn submit(server: &Server, number: usize) {
    let mut client = server.client();
    for request in 0..REQUESTS {
        let filling = if request % 10 == 0 { 200_000 } else { 10 };
        client.accept("orders", format!("{number}-{request}-{}", "x".repeat(filling)));
        if request % 50 == 0 {
            client = server.client();
        }
    }
}

#[test]
fn a_storm_of_the_signal_fails_no_request() {
    let site = Site::new(UNLIMITED);
    let server = site.start();
    let (process, threads) = (server.process_id(), executor_threads(&server));
    assert!(!threads.is_empty());
    let goes_on = Arc::new(AtomicBool::new(true));
    let storm = {
        let goes_on = Arc::clone(&goes_on);
        thread::spawn(move || storm(process, &threads, &goes_on))
    };
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let server = &server;
            scope.spawn(move || submit(server, number));
        }
    });
    let records = CLIENTS * REQUESTS;
    let count = "SELECT count(*), count(DISTINCT body) FROM forebay_orders";
    eventually("delivery", || {
        (sqlite_rows(&site.database("orders"), count) == [[records.to_string(), records.to_string()]]).then_some(())
    });
    // The stop is in the storm as well.
    server.stop();
    goes_on.store(false, Ordering::Relaxed);
    let signals = storm.join().unwrap();
    assert!(signals > records as u64, "{signals} signals are no storm");
}

//! `forebay demo` as a user runs it: the real binary, a real server, and a count in the database.

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

mod postgres_server;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use forebay_loadtest::verify::{OrdersTable, Sink, count_rows};
use postgres_server::PostgresServer;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// How often a condition is looked at before a test gives up on it.
const LOOKS_MAX: usize = 1200;
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// A demo with small numbers, in a directory and with a JSON file of its own.
struct Demo {
    parent: TempDir,
    command: Command,
}

impl Demo {
    fn new(arguments: &[&str]) -> Self {
        let parent = TempDir::new().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
        command.arg("demo").args(["--connections", "32"]);
        command.arg("--dir").arg(parent.path().join("sale")).arg("--json").arg(parent.path().join("sale.json"));
        command.args(arguments);
        Self { parent, command }
    }

    /// Runs it to its end, which must be a good one; returns the figures and what it printed.
    fn run(&mut self) -> (Value, String) {
        let output = self.command.output().unwrap();
        let said = text_of(&output);
        assert!(output.status.success(), "{said}");
        let json = fs::read_to_string(self.parent.path().join("sale.json")).unwrap();
        assert_eq!(servers_of(self.parent.path()), [], "a server is left");
        (serde_json::from_str(&json).unwrap(), said)
    }
}

fn text_of(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The processes of `forebay serve` with a configuration below a directory.
fn servers_of(directory: &Path) -> Vec<Pid> {
    let directory = directory.to_str().unwrap();
    let processes = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line);
        let is_ours = line.contains("\0serve\0") && line.contains(directory);
        is_ours.then_some(entry.file_name().to_str()?.parse().ok()?)
    });
    processes.filter_map(Pid::from_raw).collect()
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..LOOKS_MAX {
        if condition() {
            return;
        }
        std::thread::park_timeout(LOOK_PAUSE);
    }
    panic!("{what} did not come about");
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Every name of the figures is there with the right kind of value, and nothing was lost or duplicated.
fn assert_exactly_once(figures: &Value, records: u64) {
    for (name, expected) in [
        ("offered", records),
        ("acknowledged", records),
        ("refused", 0),
        ("delivered", records),
        ("lost", 0),
        ("duplicated", 0),
    ] {
        assert_eq!(figures[name], expected, "{name} in {figures:#}");
    }
    assert!(figures["kills"].is_u64(), "{figures:#}");
    for name in ["accept_seconds", "drain_seconds", "drain_rate_measured"] {
        assert!(figures[name].as_f64().is_some_and(|value| value > 0.0), "{name} in {figures:#}");
    }
    for name in ["p50", "p99", "p999", "max"] {
        assert!(figures["ack_ms"][name].as_f64().is_some_and(|value| value > 0.0), "{name} in {figures:#}");
    }
    let per_second = figures["drain_per_second"].as_array().unwrap();
    assert_eq!(per_second.iter().map(|count| count.as_u64().unwrap()).sum::<u64>(), records);
    assert_eq!(figures.as_object().unwrap().len(), 13, "{figures:#}");
}

#[test]
fn a_sale_is_delivered_exactly_once_and_leaves_its_files() {
    let mut demo = Demo::new(&["--records", "3000", "--offered-rate", "3000/s", "--rate", "3000/s"]);
    let (figures, said) = demo.run();
    assert_exactly_once(&figures, 3000);
    assert_eq!(figures["kills"], 0);
    assert_eq!(figures["drain_rate_configured"], 3000.0);
    assert!(said.contains("OK: every acknowledged order is in the database exactly once."), "{said}");
    let directory = demo.parent.path().join("sale");
    for name in ["config.toml", "server.log", "orders.db", "report.html", "data"] {
        assert!(directory.join(name).exists(), "{name} is missing");
        assert!(name == "data" || said.contains(name), "the report does not mention {name}:\n{said}");
    }
    // The configuration is one to go on with.
    let check = Command::new(env!("CARGO_BIN_EXE_forebay"))
        .args(["check", "--config"])
        .arg(directory.join("config.toml"))
        .output()
        .unwrap();
    assert!(text_of(&check).contains("queue orders: the sink is ready"), "{}", text_of(&check));
}

#[test]
fn kills_during_the_sale_lose_and_duplicate_nothing() {
    let mut demo = Demo::new(&["--records", "3000", "--offered-rate", "3000", "--rate", "3000", "--kill", "2"]);
    let (figures, said) = demo.run();
    assert_exactly_once(&figures, 3000);
    assert_eq!(figures["kills"], 2, "{said}");
    assert_eq!(said.matches("with kill -9;").count(), 2, "{said}");
}

#[test]
fn a_drain_faster_than_the_sale_keeps_up_with_it() {
    let mut demo = Demo::new(&["--records", "1000", "--offered-rate", "1000/s", "--rate", "unlimited"]);
    let (figures, _) = demo.run();
    assert_exactly_once(&figures, 1000);
    assert!(figures["drain_rate_configured"].is_null());
    let mut demo = Demo::new(&["--records", "1000", "--offered-rate", "1000/s", "--rate", "5000/s"]);
    assert_exactly_once(&demo.run().0, 1000);
}

#[test]
fn a_sale_into_postgresql_has_a_table_of_its_own() {
    let postgres = PostgresServer::start();
    let url = postgres.url("postgres");
    let mut demo = Demo::new(&[
        "--records",
        "3000",
        "--offered-rate",
        "3000/s",
        "--rate",
        "3000/s",
        "--kill",
        "1",
        "--sink",
        &url,
    ]);
    let (figures, said) = demo.run();
    assert_exactly_once(&figures, 3000);
    assert_eq!(figures["kills"], 1);
    let (_, dropping) = said.split_once("DROP TABLE ").expect("the report says how to drop the table");
    let table = dropping.split(';').next().unwrap();
    assert!(table.starts_with("forebay_demo_"), "{said}");
    let rows = count_rows(&Sink::parse(&url).unwrap(), &OrdersTable::new(table).unwrap()).unwrap();
    assert_eq!(rows, 3000);
    let page = fs::read_to_string(demo.parent.path().join("sale/report.html")).unwrap();
    assert!(!said.contains(&url) && !page.contains(&url), "the URL, which may hold a password, is shown");
}

#[test]
fn a_directory_with_something_in_it_is_refused() {
    let mut demo = Demo::new(&["--records", "10"]);
    let directory = demo.parent.path().join("sale");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("precious"), "mine").unwrap();
    let output = demo.command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text_of(&output).contains("is not empty"), "{}", text_of(&output));
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
}

#[test]
fn bad_flags_are_usage_errors() {
    for bad in [
        ["--records", "0"],
        ["--records", "many"],
        ["--offered-rate", "unlimited"],
        ["--offered-rate", "0/s"],
        ["--rate", "fast"],
        ["--connections", "0"],
        ["--sink", "mysql://host/database"],
        ["--kill", "-1"],
        ["--speed", "1"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_forebay")).arg("demo").args(bad).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{bad:?}: {}", text_of(&output));
    }
}

#[test]
fn the_help_teaches_with_examples() {
    let output = Command::new(env!("CARGO_BIN_EXE_forebay")).args(["demo", "--help"]).output().unwrap();
    let help = text_of(&output);
    assert!(output.status.success() && help.contains("Examples:") && help.contains("--kill 3"), "{help}");
}

/// Starts a long sale, sends a signal once its server runs, and returns how it ended.
fn interrupt_with(kind: Signal) -> ExitStatus {
    let mut demo = Demo::new(&["--records", "100000", "--offered-rate", "100/s"]);
    let mut child = demo.command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("a server of the demo", || servers_of(demo.parent.path()).len() == 1);
    wait_until("a first order", || fs::metadata(demo.parent.path().join("sale/data")).is_ok());
    signal(&child, kind);
    let status = child.wait().unwrap();
    assert_eq!(servers_of(demo.parent.path()), [], "the server has survived {kind:?}");
    status
}

#[test]
fn no_server_survives_an_interrupted_demo() {
    assert_eq!(interrupt_with(Signal::INT).code(), Some(130));
    assert_eq!(interrupt_with(Signal::TERM).code(), Some(143));
}

#[test]
fn a_server_that_ends_by_itself_is_an_error_with_its_log() {
    let mut demo = Demo::new(&["--records", "100000", "--offered-rate", "100/s"]);
    let mut child = demo.command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    // The demo says so once it has seen that the server is ready.
    assert!(said.any(|line| line.starts_with("files are in")));
    let servers = servers_of(demo.parent.path());
    assert_eq!(servers.len(), 1);
    kill_process(servers[0], Signal::KILL).unwrap();
    let said = said.collect::<Vec<_>>().join("\n");
    assert_eq!(child.wait().unwrap().code(), Some(1), "{said}");
    assert!(said.contains("ended by itself") && said.contains("server.log ends with"), "{said}");
    assert_eq!(servers_of(demo.parent.path()), []);
}

//! Kills of the real forebay, by the command as a user runs it.
//!
//! Each run prints its seed; `forebay-loadtest crash --seed` repeats its choices, `--kills` makes it longer.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test that cannot go on should panic")]

use rusqlite::Connection;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

mod program;

const KILLS: u32 = 25;
/// How long to wait before looking again for what the command makes.
const LOOK_PAUSE: Duration = Duration::from_millis(5);

/// A run of the command in a directory of its own.
struct Run {
    directory: TempDir,
    command: Command,
}

impl Run {
    fn new(forebay: &Path, sink: &str, kills: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay-loadtest"));
        command.args(["crash", "--sink", sink, "--kills", &kills.to_string()]).arg("--forebay").arg(forebay);
        // What PostgreSQL writes belongs to another user, who has to get through.
        let files = directory.path().join("files");
        fs::create_dir(&files).unwrap();
        open_to_all(directory.path());
        command.arg("--directory").arg(&files).arg("--json").arg(directory.path().join("crash.json"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { directory, command }
    }

    fn start(&mut self) -> Child {
        self.command.spawn().unwrap()
    }

    /// What the run left in its directory.
    fn files(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.directory.path().join("files")).unwrap();
        files.map(|entry| entry.unwrap().path()).collect()
    }

    /// The figures of the one database.
    fn figures(&self) -> Value {
        let json = fs::read(self.directory.path().join("crash.json")).unwrap();
        serde_json::from_slice::<Value>(&json).unwrap()["runs"][0].take()
    }
}

fn open_to_all(directory: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
}

fn said(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn every_record_is_accounted_for(sink: &str) {
    let mut run = Run::new(&program::forebay(), sink, KILLS);
    let output = run.start().wait_with_output().unwrap();
    let said = said(&output);
    // The test's own output, so that a run can be repeated.
    println!("{said}");
    assert!(output.status.success(), "{said}");
    assert!(run.files().is_empty(), "{:?} is left", run.files());
    let figures = run.figures();
    let number = |name: &str| figures[name].as_u64().unwrap_or_else(|| panic!("no {name} in {figures:#}"));
    let kills = ["kills_under_load", "kills_at_start", "kills_while_stopping"].map(number).iter().sum::<u64>();
    assert_eq!(kills, u64::from(KILLS));
    assert!(number("acknowledged_records") > kills, "the clients got hardly anything through");
    assert_eq!(number("rows"), number("acknowledged_records") + number("unanswered_records_there"));
    assert!(number("trimmed_records") > 0, "no segment was recycled");
    assert_eq!((figures["findings"].as_array().unwrap().len(), number("dead_letters")), (0, 0));
}

#[test]
fn sqlite_has_every_record_once_whenever_the_server_is_killed() {
    every_record_is_accounted_for("sqlite");
}

#[test]
fn postgres_has_every_record_once_whenever_the_server_is_killed() {
    every_record_is_accounted_for("postgres");
}

/// Waits for the orders' table of a run, and has the database lose one row in twenty and double another one.
fn spoil(run: &Run, child: &mut Child) {
    let find = || {
        let path = run.files().first()?.join("orders.db");
        let database = path.exists().then(|| Connection::open(path).unwrap())?;
        database.busy_timeout(Duration::from_mins(1)).unwrap();
        let tables = "SELECT count(*) FROM sqlite_master WHERE name = 'orders'";
        (database.query_row(tables, [], |row| row.get::<_, i64>(0)).unwrap() == 1).then_some(database)
    };
    let database = loop {
        if let Some(database) = find() {
            break database;
        }
        assert!(child.try_wait().unwrap().is_none(), "the command ended before it made a table");
        thread::sleep(LOOK_PAUSE);
    };
    database
        .execute_batch(
            "CREATE TRIGGER loses AFTER INSERT ON orders WHEN NEW.sequence % 20 = 7
             BEGIN DELETE FROM orders WHERE sequence = NEW.sequence; END;
             CREATE TRIGGER doubles AFTER INSERT ON orders WHEN NEW.sequence % 20 = 13
             BEGIN INSERT INTO orders (id, ticket, sequence, body)
                 VALUES (NEW.id, NEW.ticket, NEW.sequence, NEW.body); END;",
        )
        .unwrap();
}

#[test]
fn a_database_that_loses_and_doubles_rows_is_found_out() {
    // So often that some of the servers are loaded before they are killed, whatever the seed.
    let mut run = Run::new(&program::forebay(), "sqlite", 10);
    let mut child = run.start();
    spoil(&run, &mut child);
    let output = child.wait_with_output().unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("error: not every record is accounted for"), "{said}");
    assert!(said.contains("\nlost: orders: record ") && said.contains("\ndoubled: orders: record "), "{said}");
    let figures = run.figures();
    let found = |kind: &str| {
        let findings = figures["findings"].as_array().unwrap().iter();
        findings.filter(|finding| finding["kind"] == kind && finding["queue"] == "orders").count()
    };
    assert!(found("lost") > 0 && found("doubled") > 0, "{figures:#}");
    let [kept] = &run.files()[..] else { panic!("{:?}", run.files()) };
    assert!(said.contains(&format!("The files were left in {}", kept.display())), "{said}");
    for file in ["data/identity", "output.log", "orders.db", "refunds.db"] {
        assert!(kept.join(file).exists(), "{file} is not in {}", kept.display());
    }
}

#[test]
fn a_server_that_ends_by_itself_is_no_kill() {
    let mut run = Run::new(Path::new("/bin/false"), "sqlite", 1);
    let output = run.start().wait_with_output().unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("ended") && said.contains("The files were left in "), "{said}");
}

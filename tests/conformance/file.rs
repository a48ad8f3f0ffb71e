//! The row of files, and what only they can get into.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use forebay::record_text::RecordText;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::server::{Client, SMALL_JOURNAL, eventually};
use crate::stage::{NDJSON, Stage, bodies, post, until_empty};
use crate::station::{Arrival, Server, Station};

pub struct File {
    directory: TempDir,
}

impl File {
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("orders.ndjson")
    }

    fn in_the_way(&self) -> PathBuf {
        self.directory.path().join("in-the-way")
    }
}

impl Station for File {
    const KIND: &'static str = "file";
    const EXACTLY_ONCE: bool = false;

    fn start(_: Server) -> Self {
        Self { directory: tempfile::Builder::new().prefix("forebay-file-").tempdir().unwrap() }
    }

    fn sink(&self) -> String {
        format!("type = \"file\"\nurl = \"file:{}\"\n", self.path().display())
    }

    /// A kill may cut a line short; its record is then there once more.
    fn arrived(&self) -> Vec<Arrival> {
        let text = fs::read(self.path()).unwrap_or_default();
        text.split(|byte| *byte == b'\n').filter_map(arrival).collect()
    }

    /// There is no server; a directory in its place keeps everybody out.
    fn take_away(&mut self) {
        fs::create_dir(self.in_the_way()).unwrap();
        if self.path().exists() {
            // At once, or forebay would make a file meanwhile.
            renameat_with(CWD, self.in_the_way(), CWD, self.path(), RenameFlags::EXCHANGE).unwrap();
        } else {
            fs::rename(self.in_the_way(), self.path()).unwrap();
        }
    }

    fn bring_back(&mut self) {
        if self.in_the_way().exists() {
            renameat_with(CWD, self.in_the_way(), CWD, self.path(), RenameFlags::EXCHANGE).unwrap();
            fs::remove_dir(self.in_the_way()).unwrap();
        } else {
            fs::remove_dir(self.path()).unwrap();
        }
    }
}

/// What a line says, if it is one of forebay's.
fn arrival(line: &[u8]) -> Option<Arrival> {
    let line: Value = serde_json::from_slice(line).ok()?;
    let ticket = line["ticket"].as_str().unwrap().to_owned();
    let parts: RecordText = serde_json::from_value(line).unwrap();
    Some(Arrival { ticket, body: parts.body().unwrap() })
}

#[test]
fn a_line_that_was_cut_short_is_ended_and_a_file_that_was_moved_is_made_anew() {
    let stage = Stage::<File>::new(Server::Own);
    let path = stage.station.path();
    fs::write(&path, "{\"ticket\":\"of a cra").unwrap();
    let server = stage.site.start();
    let next = post(&server, 0..1);
    until_empty(&server);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("{\"ticket\":\"of a cra\n{\"queue\":\"orders\",\"sequence\":1,"), "{text}");
    stage.until_arrived(bodies(0..next), 0);

    fs::rename(&path, path.with_extension("1")).unwrap();
    let end = post(&server, next..next + 1);
    until_empty(&server);
    stage.until_arrived(bodies(next..end), 0);
    server.stop();
}

/// Another writer of the same file may be cut short at any time, not only before we open it.
#[test]
fn a_line_that_another_writer_leaves_unfinished_is_ended_before_the_next_one() {
    let stage = Stage::<File>::new(Server::Own);
    let server = stage.site.start();
    let mut next = 0;
    for _ in 0..3 {
        next = post(&server, next..next + 1);
        until_empty(&server);
        let mut file = fs::File::options().append(true).open(stage.station.path()).unwrap();
        file.write_all(b"{\"ticket\":\"of another wri").unwrap();
    }
    let end = post(&server, next..next + 1);
    until_empty(&server);
    stage.until_arrived(bodies(0..end), 0);
    server.stop();
    let text = fs::read_to_string(stage.station.path()).unwrap();
    let torn = text.lines().filter(|line| arrival(line.as_bytes()).is_none());
    assert_eq!(torn.collect::<Vec<_>>(), ["{\"ticket\":\"of another wri"; 3]);
}

/// Two queues, and lanes of one of them, each with a file of its own that it has opened.
#[test]
fn several_writers_of_one_file_tear_and_join_no_lines() {
    const RECORDS: usize = 600;
    let stage = Stage::<File>::new(Server::Own);
    let sink = stage.station.sink() + "sync = \"never\"\n";
    stage.configure(
        "order = \"none\"\nconcurrency = 4\n",
        &format!("{sink}[queues.others]\nrate = \"unlimited\"\nbatch = {{ records_max = 7 }}\n[queues.others.sink]\n{sink}"),
    );
    let server = stage.site.start();
    // A batch is then some hundreds of pages, which the system does not write at once.
    let padding = "x".repeat(30_000);
    let mut client = server.client();
    let wanted: Vec<_> = (0..RECORDS).map(|number| format!("{number:05}{padding}")).collect();
    for lines in wanted.chunks(20) {
        for queue in ["orders", "others"] {
            assert_eq!(client.post(queue, &[NDJSON], lines.join("\n")).status, 202);
        }
    }
    until_empty(&server);
    let delivered = || server.metric("forebay_delivered_sequence{queue=\"others\"}");
    eventually("the other queue's deliveries", || (delivered() == RECORDS as u64).then_some(()));
    server.stop();
    let text = fs::read(stage.station.path()).unwrap();
    assert_eq!(text.last(), Some(&b'\n'));
    let lines: Vec<_> = text[..text.len() - 1].split(|byte| *byte == b'\n').collect();
    let odd: Vec<_> = lines.iter().filter(|line| arrival(line).is_none()).map(|line| line.len()).collect();
    assert!(odd.is_empty(), "lines of these lengths are none of forebay's: {odd:?}");
    let mut arrived: Vec<_> = lines.into_iter().map(|line| arrival(line).unwrap().body).collect();
    arrived.sort();
    let twice = wanted.iter().flat_map(|body| [body, body]);
    assert!(arrived.iter().eq(twice.map(String::as_bytes)), "{} lines", arrived.len());
}

/// A pipe cannot be synced, which is no reason not to write to it.
#[test]
fn a_named_pipe_gets_lines() {
    let stage = Stage::<File>::new(Server::Own);
    let made = Command::new("mkfifo").arg(stage.station.path()).status().unwrap();
    assert!(made.success());
    // For reading and writing, so that neither waits for the other end.
    let mut pipe = BufReader::new(fs::File::options().read(true).write(true).open(stage.station.path()).unwrap());
    let server = stage.site.start();
    let ticket = server.client().accept("orders", "{}");
    server.until_delivered(&ticket);
    let mut line = Vec::new();
    pipe.read_until(b'\n', &mut line).unwrap();
    assert_eq!(arrival(&line), Some(Arrival { ticket, body: b"{}".to_vec() }));
    server.stop();
}

/// Nothing is left of the position: whether what the journal has given up was delivered, nobody can tell any more.
#[test]
fn without_its_positions_a_queue_whose_journal_has_moved_on_halts() {
    let stage = Stage::<File>::new(Server::Own);
    stage.site.configure(&format!(
        "{SMALL_JOURNAL}[queues.orders]\nrate = \"unlimited\"\n[queues.orders.sink]\n{}",
        stage.station.sink()
    ));
    let server = stage.site.start();
    post(&server, 0..150);
    until_empty(&server);
    let trimmed = "forebay_trimmed_sequence{queue=\"orders\"}";
    eventually("a recycled segment", || (server.metric(trimmed) > 0).then_some(()));
    server.stop();
    assert!(stage.site.data().join("orders.positions.db").exists());
    for ending in ["db", "db-wal", "db-shm"] {
        // The last process may have left the first one alone.
        let _ = fs::remove_file(stage.site.data().join(format!("orders.positions.{ending}")));
    }
    let server = stage.site.start();
    server.until_said("no longer delivered");
    assert!(server.said("but the journal begins with"), "{}", server.log());
    // What comes is kept all the same.
    server.client().accept("orders", "{}");
    server.stop();
}

#[test]
fn a_check_says_what_keeps_a_file_from_being_written() {
    let stage = Stage::<File>::new(Server::Own);
    let missing = stage.station.directory.path().join("missing").join("orders.ndjson");
    for (url, words) in [
        (format!("file:{}", stage.station.directory.path().display()), "is a directory; name a file in it"),
        (format!("file:{}", missing.display()), "cannot be made, because"),
        ("file:".to_owned(), "The URL names no file; write `file:orders.ndjson`"),
    ] {
        stage.configure("", &format!("type = \"file\"\nurl = \"{url}\"\n"));
        let (code, said) = stage.site.check();
        assert!(code == Some(1) && said.contains(words), "{url}: {code:?} {said}");
    }
    stage.configure("", &stage.station.sink());
    assert_eq!(stage.site.check().0, Some(0));
    assert!(!stage.station.path().exists(), "a check has made the file");
}

/// A server whose standard output is read only when the test wants it.
struct Quiet {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    address: SocketAddr,
    admin: SocketAddr,
}

impl Quiet {
    fn start(stage: &Stage<File>) -> Self {
        let sink = "type = \"file\"\nurl = \"stdout:\"\ncommit_timeout_ms = 100\n";
        stage.configure("", sink);
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
        command.args(["serve", "--config"]).arg(stage.site.config()).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut address = || {
            let mut line = String::new();
            output.read_line(&mut line).unwrap();
            line.split("http://").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap()
        };
        let (address, admin) = (address(), address());
        Self { child, output, address, admin }
    }

    /// Posts 2,000 records, whose lines are more than a pipe takes, and waits until forebay has given up waiting more than once.
    fn fill(&self) {
        let lines: String = bodies(0..100).map(|body| body + "\n").collect();
        let response = Client::connect(self.address).unwrap().post("orders", &[NDJSON], lines);
        assert_eq!(response.status, 202, "{response:?}");
        eventually("several attempts", || {
            let metrics = Client::connect(self.admin).unwrap().get("/metrics").body;
            let metrics = String::from_utf8(metrics).unwrap();
            let retries = metrics.lines().find_map(|line| line.strip_prefix("forebay_drain_retries_total{queue=\"orders\"} "));
            (retries?.parse::<u64>().unwrap() >= 3).then_some(())
        });
    }

    fn terminate(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let status = eventually("the end of the process", || self.child.try_wait().unwrap());
        assert_eq!(status.code(), Some(0));
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_stop_does_not_wait_for_whoever_should_read_the_standard_output() {
    let stage = Stage::<File>::new(Server::Own);
    let mut server = Quiet::start(&stage);
    server.fill();
    server.terminate();
}

#[test]
fn a_standard_output_that_is_read_late_gets_every_record_once() {
    let stage = Stage::<File>::new(Server::Own);
    let mut server = Quiet::start(&stage);
    server.fill();
    // It is read into a file, where the account is made up.
    let mut file = fs::File::create(stage.station.path()).unwrap();
    for _ in bodies(0..100) {
        let mut line = Vec::new();
        server.output.read_until(b'\n', &mut line).unwrap();
        file.write_all(&line).unwrap();
    }
    server.terminate();
    stage.until_arrived(bodies(0..100), 0);
    let mut rest = Vec::new();
    server.output.read_until(0, &mut rest).unwrap();
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
}

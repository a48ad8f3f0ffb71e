//! The engine against a real server on a real socket, which behaves as badly as each test asks.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test that cannot go on should panic, and is its own documentation"
)]

use forebay_loadtest::engine::{Connections, EngineError, Load, Payload, Plan, Progress, RetryPolicy, run, run_over};
use forebay_loadtest::schedule::Schedule;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const ACCEPTED: &str = "HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\nok";

/// What the server does with a request.
enum Action {
    Answer(String),
    /// Answers in pieces, each sent on its own.
    Pieces(Vec<&'static str>),
    /// Answers and closes the connection.
    AnswerAndClose(&'static str),
    /// Closes the connection without an answer.
    Hang(Duration),
    Close,
}

/// What the server saw of a request.
struct Request {
    number: u64,
    line: String,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

struct Server {
    url: String,
    connections: Arc<AtomicU64>,
    keys: Arc<Mutex<Vec<String>>>,
}

/// Serves until the test process ends; `behave` decides about each request.
fn serve(behave: impl Fn(&Request) -> Action + Send + Sync + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/records", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicU64::new(0));
    let keys = Arc::new(Mutex::new(Vec::new()));
    let (opened, seen) = (connections.clone(), keys.clone());
    thread::spawn(move || {
        let (behave, numbers) = (Arc::new(behave), Arc::new(AtomicU64::new(0)));
        for stream in listener.incoming() {
            opened.fetch_add(1, SeqCst);
            let (behave, numbers, seen) = (behave.clone(), numbers.clone(), seen.clone());
            thread::spawn(move || serve_connection(stream.unwrap(), &numbers, &seen, &*behave));
        }
    });
    Server { url, connections, keys }
}

fn serve_connection(
    stream: TcpStream,
    numbers: &AtomicU64,
    seen: &Mutex<Vec<String>>,
    behave: &dyn Fn(&Request) -> Action,
) {
    stream.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    while let Some(mut request) = read_request(&mut reader) {
        request.number = numbers.fetch_add(1, SeqCst);
        if let Some(key) = request.headers.get("idempotency-key") {
            seen.lock().unwrap().push(key.clone());
        }
        match behave(&request) {
            Action::Answer(text) => writer.write_all(text.as_bytes()).unwrap(),
            Action::Pieces(pieces) => {
                for piece in pieces {
                    writer.write_all(piece.as_bytes()).unwrap();
                    thread::sleep(Duration::from_millis(2));
                }
            }
            Action::AnswerAndClose(text) => return writer.write_all(text.as_bytes()).unwrap(),
            Action::Hang(pause) => thread::sleep(pause),
            Action::Close => return,
        }
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
    let mut headers = HashMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { number: 0, line: line.trim_end().to_owned(), headers, body })
}

fn plan(server: &Server, load: Load) -> Plan {
    let mut plan = Plan::new(&server.url, load).unwrap();
    plan.connections = 4;
    plan
}

fn closed(records: u64) -> Load {
    Load::Closed { records: Some(records), duration: None }
}

fn quick_retries() -> RetryPolicy {
    RetryPolicy { backoff_first_ms: 1, backoff_max_ms: 5, retry_after_max_ms: 5, ..RetryPolicy::default() }
}

#[test]
fn a_closed_loop_reuses_its_connections() {
    let server = serve(|request| {
        assert_eq!(request.line, "POST /records HTTP/1.1");
        assert_eq!(request.headers["content-type"], "application/json");
        assert!(serde_json::from_slice::<serde_json::Value>(&request.body).is_ok());
        Action::Answer(ACCEPTED.to_owned())
    });
    let progress = Arc::new(Progress::new());
    let outcome = run(&plan(&server, closed(500)), &progress).unwrap();
    assert_eq!((outcome.offered, outcome.acknowledged, outcome.errors, outcome.refused), (500, 500, 0, 0));
    assert_eq!(outcome.statuses[&202], 500);
    assert_eq!(outcome.acknowledged_indices, (0..500).collect());
    assert_eq!(outcome.latency_us.len(), 500);
    assert_eq!(outcome.acknowledged_per_100ms.iter().sum::<u64>(), 500);
    assert_eq!(server.connections.load(SeqCst), 4);
    assert_eq!(progress.counts().in_flight, 0);
}

#[test]
fn held_connections_outlive_their_runs() {
    let server = serve(|_| Action::Answer(ACCEPTED.to_owned()));
    let mut plan = plan(&server, closed(100));
    plan.connections = 600;
    let mut connections = Connections::open(&plan).unwrap();
    plan.threads = 2;
    for busy in [600, 3] {
        plan.connections = busy;
        let outcome = run_over(&plan, &mut connections, &Arc::new(Progress::new())).unwrap();
        assert_eq!((outcome.offered, outcome.acknowledged), (100, 100));
    }
    connections.ask_each(&plan).unwrap();
    assert_eq!((connections.len(), server.connections.load(SeqCst)), (600, 600));
}

#[test]
fn connections_that_are_not_served_are_not_held() {
    let server = serve(|request| if request.number < 3 { Action::Answer(ACCEPTED.to_owned()) } else { Action::Close });
    let plan = plan(&server, closed(1));
    let failed = Connections::open(&plan).unwrap_err();
    assert!(matches!(failed, EngineError::Connections { wanted: 4, .. }), "{failed}");
    assert!(failed.to_string().contains("connection lost: the server closed the connection"), "{failed}");
}

#[test]
fn an_open_loop_sends_every_record_over_several_threads() {
    let server = serve(|_| Action::Answer(ACCEPTED.to_owned()));
    let mut plan = plan(&server, Load::Open(Schedule::poisson(400, 4000.0, 3).unwrap()));
    plan.threads = 3;
    plan.idempotency_keys = true;
    let outcome = run(&plan, &Arc::new(Progress::new())).unwrap();
    assert_eq!(outcome.acknowledged_indices, (0..400).collect());
    let mut keys = server.keys.lock().unwrap().clone();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 400);
    assert!(keys.iter().all(|key| plan.run.order_index(key).is_some()));
}

#[test]
fn latency_counts_from_the_due_time() {
    // One connection and a server that takes 20 ms each: the last of ten simultaneous arrivals waits for the others.
    let server = serve(|_| {
        thread::sleep(Duration::from_millis(20));
        Action::Answer(ACCEPTED.to_owned())
    });
    let mut plan = plan(&server, Load::Open(Schedule::burst(10).unwrap()));
    plan.connections = 1;
    let outcome = run(&plan, &Arc::new(Progress::new())).unwrap();
    assert!(outcome.latency_us.max() >= 200_000, "{}", outcome.latency_us.max());
    assert!(outcome.start_lag_us.max() >= 179_000, "{}", outcome.start_lag_us.max());
    assert!(outcome.accept_seconds >= 0.2);
}

#[test]
fn refusals_and_errors_are_told_apart_without_retries() {
    let server = serve(|request| match request.number % 4 {
        0 => Action::Answer("HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n".to_owned()),
        1 => Action::Answer("HTTP/1.1 429 Slow down\r\nContent-Length: 0\r\n\r\n".to_owned()),
        2 => Action::Answer("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n".to_owned()),
        _ => Action::Close,
    });
    let outcome = run(&plan(&server, closed(40)), &Arc::new(Progress::new())).unwrap();
    assert_eq!((outcome.acknowledged, outcome.refused, outcome.errors, outcome.retries), (0, 20, 20, 0));
    assert_eq!(outcome.statuses, [(404, 10), (429, 10), (503, 10)].into());
    assert_eq!(outcome.failures["connection lost"], 10);
    assert!(outcome.first_failure.is_some());
    assert!(outcome.accept_seconds.abs() < f64::EPSILON);
}

#[test]
fn retries_repeat_the_same_key_until_acknowledged() {
    let server = serve(|request| match request.number % 5 {
        0 => Action::Answer(ACCEPTED.to_owned()),
        1 => Action::Close,
        2 => Action::Answer("HTTP/1.1 503 Busy\r\nRetry-After: 9\r\nContent-Length: 0\r\n\r\n".to_owned()),
        3 => Action::AnswerAndClose("HTTP/1.1 202 Acc"),
        _ => Action::Answer("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n".to_owned()),
    });
    let mut plan = plan(&server, Load::Open(Schedule::burst(60).unwrap()));
    plan.idempotency_keys = true;
    plan.retry = Some(quick_retries());
    let progress = Arc::new(Progress::new());
    let outcome = run(&plan, &progress).unwrap();
    assert_eq!((outcome.acknowledged, outcome.errors, outcome.refused), (60, 0, 0));
    assert_eq!(outcome.retries, progress.counts().retries);
    let keys = server.keys.lock().unwrap();
    assert_eq!(keys.len() as u64, 60 + outcome.retries);
    let mut distinct = keys.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), 60);
}

#[test]
fn a_server_that_is_down_is_an_outcome_not_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let mut plan = Plan::new(&url, Load::Open(Schedule::burst(5).unwrap())).unwrap();
    plan.retry = Some(RetryPolicy { attempts_max: Some(3), ..quick_retries() });
    let outcome = run(&plan, &Arc::new(Progress::new())).unwrap();
    assert_eq!((outcome.errors, outcome.retries, outcome.failures["connection not opened"]), (5, 10, 15));
}

#[test]
fn a_silent_server_times_out() {
    let server = serve(|request| match request.number {
        0..4 => Action::Hang(Duration::from_secs(5)),
        _ => Action::Answer(ACCEPTED.to_owned()),
    });
    let mut plan = plan(&server, closed(8));
    plan.limits.request_timeout_ms = 1000;
    let outcome = run(&plan, &Arc::new(Progress::new())).unwrap();
    assert_eq!((outcome.acknowledged, outcome.errors, outcome.failures["request timeout"]), (4, 4, 4));
}

#[test]
fn awkward_but_valid_responses_are_read() {
    let server = serve(|request| match request.number % 4 {
        0 => Action::Pieces(vec![
            "HTTP/1.1 100 Continue\r\n\r\nHTT",
            "P/1.1 202 A\r\nContent-Le",
            "ngth: 3\r\n\r\na",
            "bc",
        ]),
        1 => Action::Pieces(vec![
            "HTTP/1.1 202 A\r\nTransfer-Encoding: chunked\r\n\r\n3\r",
            "\nabc\r\n1",
            "0\r\n0123456789abcdef\r\n0\r\n",
            "\r\n",
        ]),
        2 => Action::AnswerAndClose("HTTP/1.1 202 A\r\n\r\nuntil the end"),
        _ => Action::AnswerAndClose("HTTP/1.1 202 A\r\nConnection: close\r\nContent-Length: 1\r\n\r\n."),
    });
    let outcome = run(&plan(&server, closed(80)), &Arc::new(Progress::new())).unwrap();
    assert_eq!((outcome.acknowledged, outcome.errors), (80, 0), "{:?}", outcome.first_failure);
    assert!(server.connections.load(SeqCst) >= 40);
}

#[test]
fn responses_beyond_the_bounds_are_errors() {
    let server = serve(|request| match request.number % 3 {
        0 => Action::Answer(format!("HTTP/1.1 202 A\r\nX: {}\r\n\r\n", "y".repeat(40_000))),
        1 => Action::Answer("HTTP/1.1 202 A\r\nContent-Length: 999999999\r\n\r\n".to_owned()),
        _ => Action::Answer(format!("{ACCEPTED}{ACCEPTED}")),
    });
    let mut plan = plan(&server, closed(9));
    plan.connections = 1;
    let outcome = run(&plan, &Arc::new(Progress::new())).unwrap();
    // The third kind is a good response followed by one that nobody asked for: the connection is not used again.
    assert_eq!((outcome.acknowledged, outcome.failures["bad response"]), (3, 6), "{:?}", outcome.failures);
}

#[test]
fn a_get_without_body_loads_other_servers() {
    let server = serve(|request| {
        assert_eq!(request.line, "GET /records HTTP/1.1");
        assert!(!request.headers.contains_key("content-length"));
        assert_eq!(request.headers["x-from"], "here");
        Action::Answer("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned())
    });
    let mut plan = plan(&server, closed(20));
    plan.method = "GET".to_owned();
    plan.payload = Payload::Empty;
    plan.headers.push(("X-From".to_owned(), "here".to_owned()));
    assert_eq!(run(&plan, &Arc::new(Progress::new())).unwrap().acknowledged, 20);
}

#[test]
fn cancelling_abandons_what_is_in_flight() {
    let server = serve(|request| match request.number {
        0..20 => Action::Answer(ACCEPTED.to_owned()),
        _ => Action::Hang(Duration::from_mins(1)),
    });
    let progress = Arc::new(Progress::new());
    let watched = progress.clone();
    let canceller = thread::spawn(move || {
        while watched.counts().acknowledged < 20 || watched.counts().in_flight < 4 {
            thread::sleep(Duration::from_millis(1));
        }
        watched.cancel();
    });
    let outcome = run(&plan(&server, closed(1000)), &progress).unwrap();
    canceller.join().unwrap();
    assert_eq!((outcome.offered, outcome.acknowledged, outcome.unfinished), (24, 20, 4));
}

#[test]
fn a_bad_plan_is_refused_before_anything_is_sent() {
    let mut plan = Plan::new("http://127.0.0.1:9/", closed(1)).unwrap();
    plan.connections = 0;
    assert!(matches!(run(&plan, &Arc::new(Progress::new())), Err(EngineError::BadPlan { .. })));
}

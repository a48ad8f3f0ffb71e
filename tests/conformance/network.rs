//! A network between forebay and the server that is cut or slow, and passwords that must not get out.

use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::proxy::Proxy;
use crate::server::Client;
use crate::stage::{BATCH_RECORDS, Dice, Stage, bodies, failures, post, until_empty, until_failed};
use crate::station::{Served, Server};

const CUTS: usize = 6;
const REQUESTS: usize = 30;
const PASSWORD: &str = "S3cret.of.the-queue";

pub fn connections_that_are_cut_are_made_anew<S: Served>() {
    let (stage, mut dice) = (Stage::<S>::new(Server::Shared), Dice::new());
    let proxy = Proxy::start(stage.station.address());
    stage.configure("", &stage.station.sink_at(proxy.address()));
    let server = stage.site.start();
    let mut next = 0;
    for _ in 0..CUTS {
        next = thread::scope(|scope| {
            let client = scope.spawn(|| post(&server, next..next + REQUESTS));
            dice.wait_ms_below(60);
            proxy.cut();
            client.join().unwrap()
        });
    }
    // One that has nothing to do is cut too.
    until_empty(&server);
    proxy.cut();
    next = post(&server, next..next + 1);
    until_empty(&server);
    stage.until_arrived(bodies(0..next), (CUTS + 1) * BATCH_RECORDS);
    server.stop();
}

pub fn a_slow_server_gets_everything_once<S: Served>() {
    let stage = Stage::<S>::new(Server::Shared);
    let proxy = Proxy::start(stage.station.address());
    stage.configure("", &(stage.station.sink_at(proxy.address()) + "commit_timeout_ms = 300\n"));
    let server = stage.site.start();
    let next = post(&server, 0..1);
    until_empty(&server);
    proxy.delay_answers(Duration::from_millis(15));
    let next = post(&server, next..next + 10);
    until_empty(&server);
    // Slower than forebay waits: nobody can tell what became of a batch until the server is quick again.
    let failures = failures(&server);
    proxy.delay_answers(Duration::from_millis(400));
    let next = post(&server, next..next + 5);
    until_failed(&server, failures + 1);
    proxy.delay_answers(Duration::ZERO);
    until_empty(&server);
    // Each attempt that was given up may have been taken.
    let attempts = usize::try_from(server.metric("forebay_drain_retries_total{queue=\"orders\"}")).unwrap();
    stage.until_arrived(bodies(0..next), attempts * BATCH_RECORDS);
    server.stop();
}

pub fn a_password_is_in_no_log_no_answer_and_no_check<S: Served>() {
    let mut stage = Stage::<S>::new(Server::Shared);
    stage.site.set_environment("RUST_LOG", "debug");
    let nowhere = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    // Bound and not listening, so that nobody else listens there meanwhile.
    nowhere.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = nowhere.local_addr().unwrap().as_socket().unwrap();
    for sink in [stage.station.sink_refused(PASSWORD), S::sink_unreachable(address, PASSWORD)] {
        assert!(sink.contains(PASSWORD), "{sink}");
        stage.configure("", &sink);
        let server = stage.site.start();
        server.client().accept("orders", "{}");
        until_failed(&server, 0);
        let mut admin = Client::connect(server.admin()).unwrap();
        let mut said = String::new();
        for path in
            ["/metrics", "/readyz", "/healthz", "/v1/queues", "/v1/queues/orders", "/v1/queues/orders/dead-letters"]
        {
            let answer = admin.get(path);
            assert!(answer.status < 500, "{path}: {answer:?}");
            said += &String::from_utf8(answer.body).unwrap();
        }
        let (_, log) = server.terminate();
        assert!(log.contains(" WARN "), "the log does not say that the sink fails:\n{log}");
        let check = Command::new(env!("CARGO_BIN_EXE_forebay"))
            .args(["check", "--config"])
            .arg(stage.site.config())
            .env("RUST_LOG", "debug")
            .output()
            .unwrap();
        assert_eq!(check.status.code(), Some(1), "{check:?}");
        for output in [check.stdout, check.stderr] {
            said += &String::from_utf8(output).unwrap();
        }
        said += &log;
        assert!(!said.contains(PASSWORD), "{said}");
    }
}

//! What servers and networks do: lost answers, late requests, servers that will not or may not.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use forebay::sink::{Batch, Sink, SinkError, Subpart};
use futures_lite::future::poll_once;

use crate::proxy::{Act, Proxy};
use crate::redis_server::{RedisServer, ask};
use crate::server::eventually;
use crate::station::Moment;
use crate::{Stage, at, commit, is_fenced, is_permanent, is_transient, part_of};

const TWO: [&str; 2] = ["RPUSH list {$sequence}", "INCRBY sum {/n}"];

fn list(stage: &Stage) -> Vec<u64> {
    stage.server.ask(&["LRANGE", "list", "0", "-1"])
}

/// A batch, before it has arrived.
const BATCH: Moment = Moment { request: b"EVALSHA", answer: None };
/// The answer to it.
const ANSWER: Moment = Moment { request: b"EVALSHA", answer: Some(b"") };
/// The raising of an epoch that was read.
const TAKE_OVER: Moment = Moment { request: b"EVAL\r\n", answer: None };

/// Waits until the server has run a command so often.
fn until_run(stage: &Stage, command: &str, calls: u64) {
    let wanted = format!("cmdstat_{command}:calls={calls},");
    let mut connection = stage.server.connection();
    eventually(&wanted, || {
        let said: String = ask(&mut connection, &["INFO", "commandstats"]);
        said.contains(&wanted).then_some(())
    });
}

#[test]
fn an_answer_that_is_lost_doubles_nothing() {
    let mut stage = Stage::start().commands(&TWO);
    let proxy = Proxy::start(stage.server.address());
    stage.url = format!("redis://{}", proxy.address());
    let mut sink = stage.sink();
    stage.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit(&mut *sink, 0, &[r#"{"n":1}"#]).await, Ok(()), "the server has the script");
        let mut position = 1;
        for round in 0..20 {
            // Every third batch has a poison record behind a good one: then it is the note whose answer is lost.
            let is_refused = round % 3 == 0;
            let bodies = [r#"{"n":1}"#, if is_refused { r#"{"n":"x"}"# } else { r#"{"n":1}"# }];
            proxy.set_trap(ANSWER, Act::Cut);
            let lost = commit(&mut *sink, position, &bodies).await;
            assert!(is_transient(&lost, ""), "{lost:?}");
            assert!(sink.claim().is_none());
            if is_refused {
                assert_eq!(stage.notes(), 2);
                assert_eq!(sink.take_over().await, at(position));
                assert!(is_permanent(&commit(&mut *sink, position, &bodies).await, "command 2"));
                assert_eq!(commit(&mut *sink, position, &[r#"{"n":1}"#]).await, Ok(()));
                assert_eq!(commit(&mut *sink, position + 1, &[r#"{"n":1}"#]).await, Ok(()));
            } else {
                assert_eq!(sink.take_over().await, at(position + 2));
            }
            position += 2;
        }
    });
    assert_eq!(list(&stage), (1..=41).collect::<Vec<_>>());
    assert_eq!((stage.server.ask::<u64>(&["GET", "sum"]), stage.notes()), (41, 0));
}

#[test]
fn a_batch_that_arrives_late_changes_nothing() {
    let mut stage = Stage::start().commands(&TWO);
    let mut direct = stage.sink();
    let proxy = Proxy::start(stage.server.address());
    (stage.url, stage.commit_timeout_ms) = (format!("redis://{}", proxy.address()), 500);
    let mut late = stage.sink();
    stage.runtime.block_on(async {
        assert_eq!(late.take_over().await, at(0));
        assert_eq!(commit(&mut *late, 0, &[r#"{"n":1}"#]).await, Ok(()));
        proxy.set_trap(BATCH, Act::Hold);
        let given_up = commit(&mut *late, 1, &[r#"{"n":1}"#]).await;
        assert!(is_transient(&given_up, "no answer within 500 ms"), "{given_up:?}");
        proxy.until_sprung();
        assert_eq!(direct.take_over().await, at(1));
        // One that found no script, the same once more, and the late one.
        proxy.release();
        until_run(&stage, "evalsha", 3);
        assert_eq!(commit(&mut *direct, 1, &[r#"{"n":1}"#]).await, Ok(()));
    });
    assert_eq!(list(&stage), [1, 2]);
}

#[test]
fn a_take_over_that_arrives_late_does_not_fence_the_later_one() {
    let mut stage = Stage::start().commands(&TWO);
    let mut direct = stage.sink();
    let proxy = Proxy::start(stage.server.address());
    (stage.url, stage.commit_timeout_ms) = (format!("redis://{}", proxy.address()), 500);
    let mut late = stage.sink();
    stage.runtime.block_on(async {
        proxy.set_trap(TAKE_OVER, Act::Hold);
        let given_up = late.take_over().await.map(|_| ());
        assert!(is_transient(&given_up, "no answer within 500 ms"), "{given_up:?}");
        proxy.until_sprung();
        assert_eq!(direct.take_over().await, at(0));
        proxy.release();
        until_run(&stage, "eval", 2);
        assert_eq!(commit(&mut *direct, 0, &[r#"{"n":1}"#]).await, Ok(()), "still held");
    });
}

/// Takes a lane over, and does something else between its look at the epochs and its write.
async fn take_over_beside<T>(
    lane: &mut dyn Sink,
    proxy: &Arc<Proxy>,
    other: impl Future<Output = T>,
) -> (Result<(), SinkError>, T) {
    proxy.set_trap(TAKE_OVER, Act::Hold);
    let held = Arc::clone(proxy);
    let beside = async {
        tokio::task::spawn_blocking(move || held.until_sprung()).await.unwrap();
        let done = other.await;
        proxy.release();
        done
    };
    let (taken, done) = tokio::join!(lane.take_over(), beside);
    (taken.map(drop), done)
}

/// The first lane raises its epoch with every batch, and would otherwise keep others from ever being added to a queue that is busy.
#[test]
fn a_lane_is_taken_over_at_once_while_the_first_one_goes_on_and_not_while_it_changes_hands() {
    let mut stage = Stage::start().commands(&TWO);
    let (part, successor) = (part_of("q/1"), part_of("q/1"));
    let (mut first, mut of_successor) = (stage.sink_for(&part), stage.sink_for(&successor));
    let proxy = Arc::new(Proxy::start(stage.server.address()));
    stage.url = format!("redis://{}", proxy.address());
    let lanes = [1, 2].map(Subpart::Lane);
    let [mut second, mut third] = lanes.map(|lane| stage.sink_for(&part.subpart(lane)));
    stage.runtime.block_on(async {
        assert_eq!(first.take_over().await, at(0));
        let raising = Batch { after: 0, through: 1, beyond: Some(&[]), deliveries: &[], witnesses: &[], ahead: None };
        let (taken, raised) = take_over_beside(&mut *second, &proxy, first.commit(raising)).await;
        assert_eq!((taken, raised), (Ok(()), Ok(())));
        // The first lane's own, and one: nothing had to be looked at anew.
        until_run(&stage, "eval", 2);
        assert_eq!(commit(&mut *second, 0, &[r#"{"n":1}"#]).await, Ok(()), "the lane is held");
        let (taken, succeeded) = take_over_beside(&mut *third, &proxy, of_successor.take_over()).await;
        assert!(is_fenced(&taken), "{taken:?}");
        assert_eq!(succeeded, at(1));
        assert_eq!(of_successor.lanes().await, Ok(vec![1]), "the row of a lane was written");
    });
}

#[test]
fn a_dropped_commit_leaves_nothing_half_done() {
    let stage = Stage::start().commands(&TWO);
    let mut sink = stage.sink();
    stage.runtime.block_on(async {
        let mut position = sink.take_over().await.unwrap().through();
        for polls in 0..12 {
            {
                let bodies = [r#"{"n":1}"#, r#"{"n":1}"#];
                let mut committing = Box::pin(commit(&mut *sink, position, &bodies));
                for _ in 0..polls {
                    if poll_once(&mut committing).await.is_some() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            }
            let after = sink.take_over().await.unwrap().through();
            assert!(after == position || after == position + 2, "{position} became {after}");
            position = after;
        }
        assert_eq!(commit(&mut *sink, position, &[r#"{"n":1}"#]).await, Ok(()));
    });
    let position: u64 = stage.position().parse().unwrap();
    assert_eq!(list(&stage), (1..=position).collect::<Vec<_>>());
    assert_eq!(stage.server.ask::<u64>(&["GET", "sum"]), position);
}

#[test]
fn a_server_that_has_forgotten_the_script_is_told_again() {
    let stage = Stage::start().commands(&TWO);
    let mut sink = stage.sink();
    stage.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        for after in 0..3 {
            let _: () = stage.server.ask(&["SCRIPT", "FLUSH"]);
            assert_eq!(commit(&mut *sink, after, &[r#"{"n":1}"#]).await, Ok(()));
        }
    });
    assert_eq!(list(&stage), [1, 2, 3]);
}

#[test]
fn a_server_without_memory_is_transient_and_goes_on_where_it_was() {
    let stage = Stage::start().commands(&TWO);
    let mut sink = stage.sink();
    stage.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        let _: () = stage.server.ask(&["CONFIG", "SET", "maxmemory", "1"]);
        let full = commit(&mut *sink, 0, &[r#"{"n":1}"#]).await;
        assert!(is_transient(&full, "OOM"), "{full:?}");
        assert!(is_transient(&sink.take_over().await.map(|_| ()), "OOM"));
        let _: () = stage.server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit(&mut *sink, 0, &[r#"{"n":1}"#]).await, Ok(()));
    });
    assert_eq!(list(&stage), [1]);
}

#[test]
fn a_server_that_runs_somebody_elses_script_is_transient() {
    let server = RedisServer::start_with(&["--busy-reply-threshold", "1"]);
    let stage = Stage::with(server).commands(&TWO);
    let mut sink = stage.sink();
    assert_eq!(stage.runtime.block_on(sink.take_over()), at(0));
    let mut busy = stage.server.connection();
    let endless = thread::spawn(move || redis::cmd("EVAL").arg("while true do end").arg(0).exec(&mut busy).is_err());
    let mut other = stage.server.connection();
    eventually("BUSY", || {
        let answer = redis::cmd("PING").exec(&mut other);
        answer.is_err_and(|error| error.code() == Some("BUSY")).then_some(())
    });
    stage.runtime.block_on(async {
        assert!(is_transient(&commit(&mut *sink, 0, &[r#"{"n":1}"#]).await, "BUSY"));
        assert!(is_transient(&sink.take_over().await.map(|_| ()), "BUSY"));
    });
    let _: () = ask(&mut other, &["SCRIPT", "KILL"]);
    assert!(endless.join().unwrap());
    stage.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit(&mut *sink, 0, &[r#"{"n":1}"#]).await, Ok(()));
    });
}

#[test]
fn a_primary_that_has_become_a_replica_is_transient() {
    let primary = RedisServer::start();
    let stage = Stage::start().commands(&TWO);
    let mut sink = stage.sink();
    stage.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit(&mut *sink, 0, &[r#"{"n":1}"#]).await, Ok(()));
        let _: () = stage.server.ask(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]);
        // It has what its primary has, which is nothing: that is not for the fence to say.
        let mut connection = stage.server.connection();
        eventually("a replica without keys", || (ask::<u64>(&mut connection, &["DBSIZE"]) == 0).then_some(()));
        assert!(is_transient(&commit(&mut *sink, 1, &[r#"{"n":1}"#]).await, "write to the primary"));
        assert!(is_transient(&sink.take_over().await.map(|_| ()), "write to the primary"));
    });
    let problems = stage.problems();
    assert!(problems.iter().any(|problem| problem.contains("is a replica")), "{problems:?}");
}

#[test]
fn what_is_delivered_is_on_as_many_replicas_as_is_asked_for() {
    let mut stage = Stage::start().commands(&TWO);
    stage.options.set("min_replicas", forebay::config::OptionValue::Integer(1));
    stage.commit_timeout_ms = 400;
    let mut sink = stage.sink();
    let alone = stage.runtime.block_on(sink.take_over()).map(|_| ());
    assert!(is_transient(&alone, "only 0 replicas have what was written, and min_replicas is 1"), "{alone:?}");
    let port = stage.server.port().to_string();
    let replica = RedisServer::start_with(&["--replicaof", &format!("127.0.0.1 {port}")]);
    eventually("a replica", || {
        let said: String = stage.server.ask(&["INFO", "replication"]);
        said.contains("state=online").then_some(())
    });
    stage.commit_timeout_ms = 20_000;
    let mut sink = stage.sink();
    stage.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit(&mut *sink, 0, &[r#"{"n":1}"#]).await, Ok(()));
    });
    assert_eq!(replica.ask::<String>(&["HGET", "forebay:position:q/1", "position"]), "1");
    // Without its replica the server has the next batch, but a take-over does not say so before a replica has it too.
    drop(replica);
    stage.commit_timeout_ms = 400;
    let mut sink = stage.sink();
    let alone = stage.runtime.block_on(sink.take_over()).map(|_| ());
    assert!(is_transient(&alone, "min_replicas"), "{alone:?}");
}

#[test]
fn users_need_a_password_and_permissions() {
    let mut stage = Stage::start().commands(&TWO);
    let _: () = stage.server.ask(&[
        "ACL",
        "SETUSER",
        "forebay",
        "on",
        ">pass word",
        "~forebay:*",
        "~list",
        "~sum",
        "+eval",
        "+evalsha",
        "+eval_ro",
        "+script|load",
        "+info",
        "+hget",
        "+hmget",
        "+hset",
        "+hsetnx",
        "+hdel",
        "+hincrby",
        "+hkeys",
        "+rpush",
        "+incrby",
        "+select",
        "+wait",
    ]);
    let port = stage.server.port();
    stage.url = format!("redis://forebay:pass%20word@127.0.0.1:{port}/3");
    let mut sink = stage.sink();
    stage.runtime.block_on(async {
        assert_eq!(sink.check().await, Ok(vec![]));
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(sink.lanes().await, Ok(vec![]));
        assert_eq!(commit(&mut *sink, 0, &[r#"{"n":1}"#]).await, Ok(()));
        let _: () = stage.server.ask(&["ACL", "SETUSER", "forebay", "-incrby"]);
        for _ in 0..2 {
            let refused = commit(&mut *sink, 1, &[r#"{"n":1}"#]).await;
            assert!(is_transient(&refused, "record 2: command 2 (INCRBY): "), "{refused:?}");
            assert_eq!(sink.take_over().await, at(1));
        }
        let problems = sink.check().await.unwrap();
        assert!(problems.len() == 1 && problems[0].contains("Command 2 (INCRBY) does not run"), "{problems:?}");
        let _: () = stage.server.ask(&["ACL", "SETUSER", "forebay", "+incrby"]);
        assert_eq!(commit(&mut *sink, 1, &[r#"{"n":1}"#]).await, Ok(()));
    });
    let mut connection = stage.server.connection();
    let _: () = ask(&mut connection, &["SELECT", "3"]);
    assert_eq!(ask::<Vec<u64>>(&mut connection, &["LRANGE", "list", "0", "-1"]), [1, 2]);
    let _: () = stage.server.ask(&["ACL", "SETUSER", "default", "resetpass", ">other"]);
    for (user, wanted) in
        [("", "Authentication required"), ("forebay:secret@", "authentication"), (":secret@", "authentication")]
    {
        stage.url = format!("redis://{user}127.0.0.1:{port}/3");
        let refused = stage.runtime.block_on(stage.sink().take_over()).map(|_| ());
        assert!(is_transient(&refused, wanted) && !is_transient(&refused, "secret"), "{refused:?}");
        let problems = stage.problems();
        assert!(problems[0].contains(wanted) && !problems[0].contains("secret"), "{problems:?}");
    }
}

#[test]
fn a_server_that_is_away_is_transient_and_comes_back() {
    let mut stage = Stage::start().commands(&TWO);
    let mut sink = stage.sink();
    stage.server.kill9();
    let away = stage.runtime.block_on(sink.take_over()).map(|_| ());
    assert!(is_transient(&away, "127.0.0.1"), "{away:?}");
    assert!(stage.problems()[0].contains("cannot be reached"));
    stage.server.restart();
    stage.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit(&mut *sink, 0, &[r#"{"n":1}"#]).await, Ok(()));
    });
    stage.server.kill9();
    assert!(is_transient(&stage.runtime.block_on(commit(&mut *sink, 1, &[r#"{"n":1}"#])), "127.0.0.1"));
    stage.server.restart();
    assert_eq!(stage.runtime.block_on(sink.take_over()), at(1));
    assert_eq!(list(&stage), [1]);
}

#[test]
fn a_server_that_was_set_back_is_noticed() {
    let stage = Stage::start().commands(&TWO);
    let mut sink = stage.sink();
    stage.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit(&mut *sink, 0, &[r#"{"n":1}"#, r#"{"n":1}"#]).await, Ok(()));
        let _: u64 = stage.server.ask(&["HSET", "forebay:position:q/1", "position", "1"]);
        assert!(is_fenced(&commit(&mut *sink, 2, &[r#"{"n":1}"#]).await));
        let _: () = stage.server.ask(&["FLUSHALL"]);
        let fenced = commit(&mut *sink, 2, &[r#"{"n":1}"#]).await;
        assert!(matches!(&fenced, Err(SinkError::Fenced(why)) if why.contains("nothing is there")), "{fenced:?}");
        assert!(is_fenced(&sink.take_over().await.map(|_| ())));
        assert_eq!(stage.sink().take_over().await, at(0), "a restart goes on");
    });
}

fn openssl(directory: &Path, arguments: &[&str]) {
    let mut command = Command::new("openssl");
    command.current_dir(directory).args(arguments).stderr(Stdio::null());
    let is_done = command.status().expect("install OpenSSL: apt-get install openssl").success();
    assert!(is_done, "openssl {arguments:?}");
}

/// An authority of the test's own, and a key with its certificate for `localhost`.
fn certificates(directory: &Path) {
    let new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let authority = ["-x509", "-days", "2", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem"];
    openssl(directory, &[&new[..], &authority[..]].concat());
    let request = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"];
    openssl(directory, &[&new[..], &request[..], &["-keyout", "key.pem", "-out", "request.pem"]].concat());
    let sign = ["x509", "-req", "-days", "2", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca.key"];
    openssl(
        directory,
        &[&sign[..], &["-CAcreateserial", "-copy_extensions", "copy", "-out", "certificate.pem"]].concat(),
    );
}

#[test]
fn tls_is_spoken_with_those_who_are_trusted() {
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path());
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let (key, certificate) = (path("key.pem"), path("certificate.pem"));
    let server = RedisServer::start_with(&[
        "--tls-port",
        &port.to_string(),
        "--tls-key-file",
        &key,
        "--tls-cert-file",
        &certificate,
        "--tls-auth-clients",
        "no",
    ]);
    let mut stage = Stage::with(server).commands(&TWO);
    stage.url = format!("rediss://localhost:{port}");
    let stranger = stage.runtime.block_on(stage.sink().take_over()).map(|_| ());
    assert!(is_transient(&stranger, "certificate"), "{stranger:?}");
    stage.set_text("tls_ca_file", &path("ca.pem"));
    let mut sink = stage.sink();
    stage.runtime.block_on(async {
        assert_eq!(sink.check().await, Ok(vec![]));
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit(&mut *sink, 0, &[r#"{"n":1}"#]).await, Ok(()));
    });
    assert_eq!(list(&stage), [1]);
    stage.set_text("tls_ca_file", &path("nowhere.pem"));
    let missing = stage.runtime.block_on(stage.sink().take_over()).map(|_| ());
    assert!(is_transient(&missing, "nowhere.pem"), "{missing:?}");
}

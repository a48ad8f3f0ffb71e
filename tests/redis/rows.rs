//! What arrives, and the fence.

use std::collections::BTreeMap;

use forebay::limits::BEYOND_BYTES_MAX;
use forebay::progress::Progress;
use forebay::sink::{Batch, Claim, Sink, SinkError, Subpart};

use crate::{Stage, at, commit, deliver, is_fenced, is_permanent, is_transient, part_of};

type Entries = Vec<(String, Vec<Vec<u8>>)>;

#[test]
fn the_default_stream_holds_what_was_sent() {
    let stage = Stage::start();
    let mut sink = stage.sink();
    let large = vec![0xfe; 1 << 20];
    let bodies: [&[u8]; 5] = [b"{}", b"\0\xff\r\n$1\r\n ' \" \\ ", b"", "🦀é\u{301}\u{feff}".as_bytes(), &large];
    stage.runtime.block_on(async {
        assert_eq!(sink.check().await, Ok(vec![]));
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit(&mut *sink, 0, &bodies).await, Ok(()));
        assert_eq!(sink.take_over().await, at(5));
    });
    let entries: Entries = stage.server.ask(&["XRANGE", "forebay:q", "-", "+"]);
    assert_eq!(entries.len(), bodies.len());
    for (number, ((_, fields), body)) in entries.iter().zip(bodies).enumerate() {
        let ticket = format!("q-{}-0", number + 1);
        let wanted: [&[u8]; 10] = [
            b"ticket",
            ticket.as_bytes(),
            b"received_at",
            b"2023-11-14T22:13:20.000042Z",
            b"key",
            b"",
            b"content_type",
            b"application/json",
            b"body",
            body,
        ];
        assert_eq!(*fields, wanted);
    }
}

#[test]
fn every_command_runs_once_for_each_record() {
    let stage = Stage::start().commands(&[
        "XADD orders:{$queue} * id {/id} body {$body} missing {/not/there}",
        "hset order:{/id} total {/total} at {$sequence}",
        "LPUSH list {/id}",
        "SADD set {/id} {/id}",
        "SET last:{$queue} {$body}",
        "INCRBY sum {/total}",
        "PUBLISH news {/id}",
    ]);
    let mut connection = stage.server.connection();
    let mut listener = connection.as_pubsub();
    listener.subscribe("news").unwrap();
    let mut sink = stage.sink();
    let bodies = [r#"{"id":"a b","total":7}"#, r#"{"id":"ü{}","total":-2}"#, r#"{"total":1}"#];
    stage.runtime.block_on(async {
        assert_eq!(sink.check().await, Ok(vec![]));
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit(&mut *sink, 0, &bodies).await, Ok(()));
    });
    let heard: Vec<String> = (0..3).map(|_| listener.get_message().unwrap().get_payload().unwrap()).collect();
    assert_eq!(heard, ["a b", "ü{}", ""]);
    let server = &stage.server;
    let entries: Entries = server.ask(&["XRANGE", "orders:q", "-", "+"]);
    let second: [&[u8]; 6] = [b"id", "ü{}".as_bytes(), b"body", bodies[1].as_bytes(), b"missing", b""];
    assert_eq!(entries[1].1, second);
    let order: BTreeMap<String, String> = server.ask(&["HGETALL", "order:a b"]);
    assert_eq!(order, BTreeMap::from([("at".into(), "1".into()), ("total".into(), "7".into())]));
    assert_eq!(server.ask::<Vec<String>>(&["LRANGE", "list", "0", "-1"]), ["", "ü{}", "a b"]);
    assert_eq!(server.ask::<u64>(&["SCARD", "set"]), 3);
    assert_eq!(server.ask::<String>(&["GET", "last:q"]), bodies[2]);
    assert_eq!(server.ask::<i64>(&["GET", "sum"]), 6);
}

#[test]
fn a_replayed_batch_and_an_older_owner_are_fenced() {
    let stage = Stage::start().commands(&["RPUSH list {$body}"]);
    let (mut older, mut younger) = (stage.sink(), stage.sink());
    stage.runtime.block_on(async {
        assert!(is_transient(&commit(&mut *older, 0, &["no"]).await, "take_over"));
        assert_eq!(older.take_over().await, at(0));
        assert_eq!(commit(&mut *older, 0, &["a", "b"]).await, Ok(()));
        for (after, what) in [(0, "a replay"), (5, "a gap")] {
            assert!(is_fenced(&commit(&mut *older, after, &["no", "no"]).await), "{what}");
        }
        assert_eq!(commit(&mut *older, 2, &["c"]).await, Ok(()), "the connection is as good as before");
        assert_eq!(younger.take_over().await, at(3));
        assert!(is_fenced(&commit(&mut *older, 3, &["no"]).await));
        assert_eq!(commit(&mut *younger, 3, &["d"]).await, Ok(()));
        assert!(is_fenced(&commit::<&str>(&mut *older, 4, &[]).await));
        let mut other = stage.sink_of("q/2");
        assert_eq!(other.take_over().await, at(0), "another directory's queue");
        let empty = Batch { after: 4, through: 9, beyond: None, deliveries: &[], witnesses: &[], ahead: None };
        assert_eq!(younger.commit(empty).await, Ok(()));
        assert!(is_fenced(&younger.commit(empty).await));
        assert_eq!(younger.take_over().await, at(9));
    });
    assert_eq!(stage.server.ask::<Vec<String>>(&["LRANGE", "list", "0", "-1"]), ["a", "b", "c", "d"]);
}

#[test]
fn position_and_what_is_beyond_it_move_with_the_rows() {
    let stage = Stage::start().commands(&["RPUSH list {$sequence}"]);
    let progress = |through, beyond: &[u64]| {
        let mut progress = Progress::up_to(through);
        for sequence in beyond {
            progress.mark(*sequence);
        }
        progress
    };
    let mut sink = stage.sink();
    stage.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        let first = progress(1, &[3, 4, 9]);
        assert_eq!(deliver(&mut *sink, 0, &[(9, ""), (1, ""), (3, ""), (4, "")], &first).await, Ok(()));
        assert_eq!(sink.take_over().await, Ok(first));
        // The position need not move, and sent twice it is fenced by its epoch.
        let second = progress(1, &[3, 4, 7, 9]);
        let mut twin = stage.sink();
        assert_eq!(twin.take_over().await.map(|found| found.through()), Ok(1));
        assert!(is_fenced(&deliver(&mut *sink, 1, &[(7, "")], &second).await));
        assert_eq!(deliver(&mut *twin, 1, &[(7, "")], &second).await, Ok(()));
        let claim = twin.claim().unwrap();
        assert_eq!(twin.take_over().await, Ok(second));
        assert!(twin.claim().unwrap().epoch > claim.epoch);
        assert!(is_fenced(&sink.take_over().await.map(|_| ())), "the older one must not take over once more");
        let all: [(u64, &str); 0] = [];
        let empty = Batch { after: 1, through: 9, beyond: Some(&[]), deliveries: &[], witnesses: &[], ahead: None };
        assert_eq!(twin.commit(empty).await, Ok(()));
        assert_eq!(deliver(&mut *twin, 9, &all, &progress(9, &[])).await, Ok(()));
        assert_eq!(twin.take_over().await, at(9));
    });
    assert_eq!(stage.server.ask::<Vec<String>>(&["LRANGE", "list", "0", "-1"]), ["9", "1", "3", "4", "7"]);
}

#[test]
fn what_is_beyond_may_take_all_its_bytes_and_must_make_sense() {
    let stage = Stage::start();
    let mut sink = stage.sink();
    let mut then = Progress::up_to(0);
    (1..BEYOND_BYTES_MAX as u64 / 2).for_each(|n| then.mark(2 * n));
    stage.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(deliver(&mut *sink, 0, &[(2, "{}")], &then).await, Ok(()));
        assert_eq!(sink.take_over().await, Ok(then));
    });
    for (field, value, wanted) in [
        ("beyond", "\0", "format 0"),
        ("beyond", "\u{1}", "ends before"),
        ("position", "-1", "no sequence"),
        ("position", "x", "no number"),
        ("epoch", "x", "no number"),
    ] {
        let _: i64 = stage.server.ask(&["HSET", "forebay:position:q/1", field, value]);
        let refused = stage.runtime.block_on(sink.take_over()).map(|_| ());
        assert!(is_transient(&refused, wanted), "{refused:?}");
    }
}

/// Moves the position by an empty batch that raises the epoch.
async fn step(sink: &mut dyn Sink, after: u64, witnesses: &[Claim]) -> Result<(), SinkError> {
    sink.commit(Batch { after, through: after + 1, beyond: Some(&[]), deliveries: &[], witnesses, ahead: None }).await
}

#[test]
fn lanes_have_fields_of_their_own_and_look_at_each_other() {
    let stage = Stage::start();
    let mut first = stage.sink();
    stage.runtime.block_on(async {
        assert!(first.lanes().await.is_err(), "nothing is held");
        first.take_over().await.unwrap();
        assert_eq!(first.lanes().await, Ok(vec![]));
        for part in ["q/1/lane-10", "q/1/lane-2", "q/1/redrive-a", "_/1/lane-3", "q/12/lane-4"] {
            stage.sink_of(part).take_over().await.unwrap();
        }
        assert_eq!(first.lanes().await, Ok(vec![2, 10]));
        let mut second = stage.sink_of("q/1/lane-2");
        second.take_over().await.unwrap();
        let claim = second.claim().unwrap();
        assert_eq!(step(&mut *first, 0, std::slice::from_ref(&claim)).await, Ok(()), "the part is still held");
        // Whoever has gone on since is no reason to stop.
        assert_eq!(step(&mut *second, 0, &[]).await, Ok(()));
        assert_eq!(step(&mut *first, 1, std::slice::from_ref(&claim)).await, Ok(()));
        let ahead = Claim { epoch: second.claim().unwrap().epoch + 1, ..claim };
        assert!(is_fenced(&step(&mut *first, 2, std::slice::from_ref(&ahead)).await));
        let gone = Claim { part: "q/1/lane-7".into(), epoch: 1 };
        assert!(is_fenced(&step(&mut *first, 2, &[gone]).await));
        assert_eq!(step(&mut *first, 2, &[]).await, Ok(()), "the connection is as good as before");
        let stranger = Claim { part: "other/1".into(), epoch: 1 };
        assert!(is_transient(&step(&mut *first, 3, &[stranger]).await, "no part"));
        stage.sink_of("q/1/lane-x").take_over().await.unwrap();
        let error = first.lanes().await.unwrap_err().to_string();
        assert!(error.contains("q/1/lane-x"), "{error}");
    });
}

#[test]
fn a_queue_that_was_taken_over_is_not_taken_over_once_more() {
    let stage = Stage::start();
    let (older, younger) = (part_of("q/1"), part_of("q/1"));
    let rows = [Subpart::Lane(1), Subpart::Redrive("a")];
    let first_epoch = || stage.server.ask::<String>(&["HGET", "forebay:position:q/1", "epoch"]);
    let mut of_older = stage.sink_for(&older);
    let mut of_younger = stage.sink_for(&younger);
    stage.runtime.block_on(async {
        assert_eq!(of_older.take_over().await, at(0));
        assert_eq!(of_older.take_over().await, at(0), "what is our own is taken over at any time");
        for row in rows {
            let mut row = stage.sink_for(&older.subpart(row));
            assert_eq!(row.take_over().await, at(0));
            assert_eq!(row.take_over().await, at(0));
        }
        // A batch of its own, which raises the epoch, is no reason to refuse either.
        assert_eq!(step(&mut *of_older, 0, &[]).await, Ok(()));
        assert_eq!(of_older.take_over().await, at(1));
        // Nothing but the epoch of the first row says that somebody else was there.
        assert_eq!(of_younger.take_over().await, at(1));
        let before = first_epoch();
        assert!(is_fenced(&of_older.take_over().await.map(|_| ())));
        for row in rows {
            let refused = stage.sink_for(&older.subpart(row)).take_over().await.map(|_| ());
            assert!(is_fenced(&refused), "{refused:?}");
        }
        let new = stage.sink_for(&older.subpart(Subpart::Lane(2))).take_over().await.map(|_| ());
        assert!(is_fenced(&new), "{new:?}");
        assert_eq!(of_younger.lanes().await, Ok(vec![1]), "a row was written");
        assert_eq!(first_epoch(), before, "an epoch was written");
        assert_eq!(step(&mut *of_younger, 1, &[]).await, Ok(()));
        for row in rows {
            assert_eq!(stage.sink_for(&younger.subpart(row)).take_over().await, at(0));
        }
    });
}

#[test]
fn a_value_cannot_name_the_position() {
    let stage = Stage::start().commands(&["SET {/k} x"]);
    let mut sink = stage.sink();
    stage.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        let body = r#"{"k":"forebay:position:q/1"}"#;
        assert!(is_permanent(&commit(&mut *sink, 0, &[r#"{"k":"a"}"#, body]).await, "record 2"));
        assert_eq!(commit(&mut *sink, 0, &[r#"{"k":"a"}"#]).await, Ok(()));
    });
    assert_eq!(stage.position(), "1");
}

#[test]
fn a_batch_with_too_many_values_is_parted() {
    let words = (0..190).map(|n| format!(" {{/{n}}}")).collect::<String>();
    let stage = Stage::start().commands(&[&format!("DEL{words}"), "INCR count"]);
    let mut sink = stage.sink();
    let bodies = vec!["{}"; 6_000];
    stage.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert!(is_permanent(&commit(&mut *sink, 0, &bodies).await, "too many for one request"));
        assert_eq!(commit(&mut *sink, 0, &bodies[..5_000]).await, Ok(()));
    });
    assert_eq!(stage.server.ask::<u64>(&["GET", "count"]), 5_000);
}

/// Notes of what was carried out are of one sink, and so are lanes.
#[test]
fn each_sink_of_a_queue_has_a_hash_of_its_own() {
    let stage = Stage::start();
    let (mut main, mut other) = (stage.sink(), stage.sink_of("q/1/sink-x"));
    stage.runtime.block_on(async {
        main.take_over().await.unwrap();
        other.take_over().await.unwrap();
        stage.sink_of("q/1/lane-2").take_over().await.unwrap();
        stage.sink_of("q/1/sink-x/lane-3").take_over().await.unwrap();
        assert_eq!(main.lanes().await, Ok(vec![2]));
        assert_eq!(other.lanes().await, Ok(vec![3]));
    });
    let keys: usize = stage.server.ask(&["EXISTS", "forebay:position:q/1", "forebay:position:q/1/sink-x"]);
    assert_eq!(keys, 2);
}

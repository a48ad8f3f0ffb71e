//! Batches of which there is something already, encoded before they were one.
//!
//! What is encoded is often of other bodies than the batch has: which of both the server has says what was sent.

use forebay::record::Sequence;
use forebay::sink::encoded::{Ahead, Encoded, Encoding};
use forebay::sink::{Batch, Delivery, Sink, SinkError};

use crate::{Stage, at, commit, is_fenced, is_permanent, record};

const COMMANDS: [&str; 2] = ["RPUSH list {$sequence}={/v}", "SET {/k} {/v}"];

fn body(v: &str) -> String {
    serde_json::json!({ "k": format!("key:{v}"), "v": v }).to_string()
}

fn bodies(values: &[&str]) -> Vec<String> {
    values.iter().map(|v| body(v)).collect()
}

/// Records behind `after`.
fn deliveries(after: Sequence, bodies: &[String]) -> Vec<Delivery<'_>> {
    (after + 1..)
        .zip(bodies)
        .map(|(sequence, body)| Delivery { sequence, record: record(body.as_bytes()), ticket: "q-1-0" })
        .collect()
}

fn encode(sink: &dyn Sink, after: Sequence, bodies: &[String]) -> Encoded {
    let mut encoding = Encoding::new(sink.encoder().unwrap(), 0);
    let _ = deliveries(after, bodies).iter().all(|delivery| encoding.add(delivery));
    encoding.finish()
}

async fn commit_ahead(
    sink: &mut dyn Sink,
    after: Sequence,
    bodies: &[String],
    ahead: Option<Ahead<'_>>,
) -> Result<(), SinkError> {
    let (deliveries, through) = (deliveries(after, bodies), after + bodies.len() as u64);
    sink.commit(Batch { after, through, beyond: None, deliveries: &deliveries, witnesses: &[], ahead }).await
}

fn list(stage: &Stage) -> Vec<String> {
    stage.server.ask(&["LRANGE", "list", "0", "-1"])
}

#[test]
fn any_number_of_the_first_records_may_be_there() {
    let stage = Stage::start().commands(&COMMANDS);
    let values = ["", "two words", "\r\n$1\r\n\0", "🦀é", &"x".repeat(100_000)];
    let sent = bodies(&values);
    let mut sink = stage.sink();
    assert_eq!(stage.runtime.block_on(sink.take_over()), at(0));
    for number in 0..=values.len() {
        let after = (number * values.len()) as u64;
        let committed = stage.runtime.block_on(async {
            let encoded = encode(&*sink, after, &sent);
            let ahead = encoded.part(0, number);
            assert_eq!(ahead.map_or(0, |ahead| ahead.records()), number);
            commit_ahead(&mut *sink, after, &sent, ahead).await
        });
        assert_eq!(committed, Ok(()), "{number}");
        let wanted: Vec<_> = (after + 1..).zip(values).map(|(sequence, v)| format!("{sequence}={v}")).collect();
        assert!(list(&stage) == wanted, "{number} ahead");
        for v in values {
            assert!(stage.server.ask::<String>(&["GETDEL", &format!("key:{v}")]) == v, "{number} ahead");
        }
        let _: u64 = stage.server.ask(&["DEL", "list"]);
    }
}

#[test]
fn what_is_there_is_what_is_sent() {
    let stage = Stage::start().commands(&COMMANDS);
    let mut sink = stage.sink();
    stage.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        let encoded = encode(&*sink, 0, &bodies(&["a", "b", "c"]));
        assert_eq!(commit_ahead(&mut *sink, 0, &bodies(&["1"]), encoded.part(0, 1)).await, Ok(()));
        assert_eq!(commit_ahead(&mut *sink, 1, &bodies(&["2", "3", "4"]), encoded.part(1, 3)).await, Ok(()));
    });
    assert_eq!(list(&stage), ["1=a", "2=b", "3=c", "4=4"]);
    assert_eq!(stage.server.ask::<u64>(&["EXISTS", "key:a", "key:b", "key:c", "key:4", "key:1", "key:2"]), 4);
}

#[test]
fn what_another_sink_has_encoded_is_not_sent() {
    let mut stage = Stage::start().commands(&COMMANDS);
    let mut sink = stage.sink();
    stage.set_commands(&["SET {/k} {$sequence} EX {/v}"]);
    let other = stage.sink();
    stage.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        let encoded = encode(&*other, 0, &bodies(&["odd", "odd"]));
        assert_eq!(commit_ahead(&mut *sink, 0, &bodies(&["1", "2"]), encoded.part(0, 2)).await, Ok(()));
    });
    assert_eq!(list(&stage), ["1=1", "2=2"]);
}

#[test]
fn a_record_that_names_the_position_takes_back_what_was_there() {
    let stage = Stage::start().commands(&COMMANDS);
    let mut sink = stage.sink();
    let position = r#"{"k":"forebay:position:q/1","v":"x"}"#;
    for (bad, why) in [(position, "record 3: a value is forebay:position:q/1"), ("no JSON", "not JSON")] {
        let sent = [body("1"), body("2"), bad.to_owned(), body("4")];
        let refused = stage.runtime.block_on(async {
            assert_eq!(sink.take_over().await, at(0));
            let encoded = encode(&*sink, 0, &sent);
            let ahead = encoded.part(0, sent.len());
            assert_eq!(ahead.map(|ahead| ahead.records()), Some(2), "none behind it is encoded");
            commit_ahead(&mut *sink, 0, &sent, ahead).await
        });
        assert!(is_permanent(&refused, why), "{refused:?}");
        assert_eq!((list(&stage), stage.position(), stage.notes()), (vec![], "0".to_owned(), 0));
    }
    stage.runtime.block_on(async {
        let encoded = encode(&*sink, 0, &bodies(&["a", "b"]));
        assert_eq!(commit_ahead(&mut *sink, 0, &bodies(&["1", "2"]), encoded.part(0, 2)).await, Ok(()));
        assert_eq!(sink.take_over().await, at(2));
    });
    assert_eq!(list(&stage), ["1=a", "2=b"]);
}

#[test]
fn an_older_owner_is_fenced() {
    let stage = Stage::start().commands(&COMMANDS);
    let (mut older, mut younger) = (stage.sink(), stage.sink());
    let sent = bodies(&["1", "2"]);
    stage.runtime.block_on(async {
        assert_eq!(older.take_over().await, at(0));
        let encoded = encode(&*older, 0, &sent);
        assert_eq!(younger.take_over().await, at(0));
        assert!(is_fenced(&commit_ahead(&mut *older, 0, &sent, encoded.part(0, 2)).await));
        assert_eq!(list(&stage), Vec::<String>::new());
        assert_eq!(commit(&mut *younger, 0, &sent).await, Ok(()));
    });
    assert_eq!(list(&stage), ["1=1", "2=2"]);
}

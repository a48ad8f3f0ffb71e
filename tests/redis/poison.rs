//! Records that a command refuses: everything else exactly once, each command for itself, although Redis takes nothing back.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::thread;

use forebay::progress::Progress;
use forebay::sink::{Sink, SinkError};
use proptest::prelude::*;
use rustix::process::{Signal, kill_process};

use crate::{Stage, at, commit, deliver, is_permanent, is_transient};

/// Three commands for each order, of which the second fails where the amount is no number.
const COMMANDS: [&str; 3] = ["XADD orders * id {/id}", "HINCRBY sum:{/id} total {/total}", "INCR count:{/id}"];

fn order(id: u64, is_poison: bool) -> String {
    if is_poison { format!(r#"{{"id":{id},"total":"x"}}"#) } else { format!(r#"{{"id":{id},"total":1}}"#) }
}

/// A drain: sends orders in batches, parts what is refused, sets aside what is refused by itself, takes over after what may pass.
struct Drain {
    said: u64,
    refused: Vec<(u64, String)>,
    /// Set back by the kill that it stands for.
    takes_over: u64,
}

impl Drain {
    async fn send(&mut self, sink: &mut dyn Sink, orders: &[(u64, String)], then: u64) -> Result<(), SinkError> {
        let mut spans = vec![(orders, then)];
        while let Some((span, then)) = spans.pop() {
            match deliver(sink, self.said, span, &Progress::up_to(then)).await {
                Ok(()) => self.said = then,
                Err(SinkError::Permanent { .. }) if span.len() > 1 => {
                    let (first, second) = span.split_at(span.len() / 2);
                    spans.extend([(second, then), (first, second[0].0 - 1)]);
                }
                Err(SinkError::Permanent { message }) => {
                    self.refused.push((span[0].0, message));
                    spans.push((&[], then));
                }
                Err(SinkError::Transient(_)) => {
                    self.takes_over += 1;
                    let found = sink.take_over().await?.through();
                    if found == then {
                        self.said = then;
                    } else {
                        assert_eq!(found, self.said, "the position is that of one of both");
                        spans.push((span, then));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Every order is there once by each command, but for the poison, which has its first command only.
fn account(stage: &Stage, orders: u64, poison: &[u64]) {
    let mut connection = stage.server.connection();
    let entries: Vec<(String, Vec<String>)> =
        crate::redis_server::ask(&mut connection, &["XRANGE", "orders", "-", "+"]);
    let mut added = BTreeMap::new();
    for (_, fields) in &entries {
        *added.entry(fields[1].parse::<u64>().unwrap()).or_insert(0) += 1;
    }
    assert_eq!(added, (1..=orders).map(|id| (id, 1)).collect::<BTreeMap<_, _>>());
    for id in 1..=orders {
        let sum: Option<u64> = crate::redis_server::ask(&mut connection, &["HGET", &format!("sum:{id}"), "total"]);
        let count: Option<u64> = crate::redis_server::ask(&mut connection, &["GET", &format!("count:{id}")]);
        let wanted = if poison.contains(&id) { None } else { Some(1) };
        assert_eq!((sum, count), (wanted, wanted), "order {id}");
    }
}

#[test]
fn a_poison_record_in_the_middle_costs_itself_alone() {
    let stage = Stage::start().commands(&COMMANDS);
    let orders: Vec<_> = (1..=100).map(|id| (id, order(id, id == 57 || id == 58))).collect();
    let mut drain = Drain { said: 0, refused: Vec::new(), takes_over: 0 };
    let mut sink = stage.sink();
    stage.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        let refused = deliver(&mut *sink, 0, &orders, &Progress::up_to(100)).await;
        assert!(is_permanent(&refused, "record 57: command 2 (HINCRBY): "), "{refused:?}");
        assert!(is_permanent(&refused, "not an integer"), "{refused:?}");
        assert!(is_permanent(&refused, "command 1 was carried out before, and is not repeated"), "{refused:?}");
        assert_eq!((stage.position(), stage.notes()), ("0".to_owned(), 57));
        // The same by another process, which knows nothing of that.
        let mut sink = stage.sink();
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(drain.send(&mut *sink, &orders, 100).await, Ok(()));
        assert_eq!(sink.take_over().await, at(100));
    });
    assert_eq!(drain.refused.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [57, 58]);
    account(&stage, 100, &[57, 58]);
    assert_eq!(stage.notes(), 2, "what is delivered has no note any more");
}

#[test]
fn a_dead_letter_that_is_redriven_goes_on_where_it_was() {
    let stage = Stage::start().commands(&COMMANDS);
    let mut drain = Drain { said: 0, refused: Vec::new(), takes_over: 0 };
    let (mut sink, mut redrive) = (stage.sink(), stage.sink_of("q/1/redrive-abc"));
    stage.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        let orders: Vec<_> = (1..=3).map(|id| (id, order(id, id == 2))).collect();
        assert_eq!(drain.send(&mut *sink, &orders, 3).await, Ok(()));
        account(&stage, 3, &[2]);
        assert_eq!(redrive.take_over().await, at(0));
        let still = deliver(&mut *redrive, 0, &[(2, order(2, true))], &Progress::up_to(1)).await;
        assert!(is_permanent(&still, "command 2"), "{still:?}");
        let edited = deliver(&mut *redrive, 0, &[(2, order(2, false))], &Progress::up_to(1)).await;
        assert_eq!(edited, Ok(()));
        assert_eq!(redrive.take_over().await, at(1));
        assert_eq!(sink.take_over().await, at(3));
    });
    account(&stage, 3, &[]);
    assert_eq!(stage.notes(), 0);
}

#[test]
fn other_commands_begin_a_record_anew_and_leave_whole_ones_alone() {
    let mut stage = Stage::start().commands(&COMMANDS);
    let mut sink = stage.sink();
    let refused = stage.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        commit(&mut *sink, 0, &[order(1, false), order(2, true)]).await
    });
    assert!(is_permanent(&refused, "record 2"), "{refused:?}");
    stage.set_commands(&["RPUSH after {/id}", "XADD orders * id {/id}"]);
    let mut sink = stage.sink();
    stage.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit(&mut *sink, 0, &[order(1, false), order(2, true)]).await, Ok(()));
    });
    assert_eq!(stage.server.ask::<Vec<String>>(&["LRANGE", "after", "0", "-1"]), ["2"]);
    assert_eq!(stage.server.ask::<u64>(&["XLEN", "orders"]), 3);
    assert_eq!(stage.notes(), 0);
}

#[test]
fn what_is_no_records_fault_costs_no_record() {
    let stage = Stage::start().commands(&["RPUSH list {/id}", "HSET only:{/id} a {/id} b"]);
    let mut sink = stage.sink();
    stage.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        for _ in 0..2 {
            let failed = commit(&mut *sink, 0, &[order(1, false), order(2, false)]).await;
            assert!(is_transient(&failed, "record 1: command 2 (HSET): ERR wrong number of arguments"), "{failed:?}");
            assert_eq!(sink.take_over().await, at(0));
        }
    });
    assert_eq!(stage.server.ask::<Vec<String>>(&["LRANGE", "list", "0", "-1"]), ["1"]);
}

#[test]
fn a_type_that_is_another_is_the_records_fault() {
    let stage = Stage::start().commands(&["LPUSH {/k} x"]);
    let _: () = stage.server.ask(&["SET", "text", "x"]);
    let mut sink = stage.sink();
    stage.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert!(is_permanent(&commit(&mut *sink, 0, &[r#"{"k":"text"}"#]).await, "WRONGTYPE"));
        assert!(is_permanent(&commit(&mut *sink, 0, &["no json"]).await, "not JSON"));
        assert_eq!(commit(&mut *sink, 0, &[r#"{"k":"list"}"#]).await, Ok(()));
    });
    assert_eq!(stage.notes(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Records that overtake others, in batches of any size and order, from a new process after any of them.
    #[test]
    fn any_order_and_any_restart_carries_out_each_command_once(
        order_of in Just((1..=40_u64).collect::<Vec<_>>()).prop_shuffle(),
        poison in prop::collection::btree_set(1..=40_u64, 0..4),
        cuts in prop::collection::vec((1..12_usize, any::<bool>()), 60),
    ) {
        let stage = SHARED.with(Rc::clone);
        let _: () = stage.server.ask(&["FLUSHALL"]);
        let mut sink = stage.sink();
        stage.runtime.block_on(async {
            let mut said = sink.take_over().await.unwrap();
            let mut waiting: Vec<_> = order_of.clone();
            let (mut cuts, mut size_max) = (cuts.iter().cycle(), usize::MAX);
            while !waiting.is_empty() {
                let &(size, restarts) = cuts.next().unwrap();
                if restarts {
                    sink = stage.sink();
                    prop_assert_eq!(&sink.take_over().await.unwrap(), &said);
                }
                let numbered = |id: &u64| (*id, order(*id, poison.contains(id)));
                let batch: Vec<_> = waiting.iter().take(size.min(size_max)).map(numbered).collect();
                let mut then = said.clone();
                for (id, _) in &batch {
                    then.mark(*id);
                }
                match deliver_anywhere(&mut *sink, &said, &batch, &then).await {
                    Ok(()) => {
                        said = then;
                        size_max = usize::MAX;
                        waiting.drain(..batch.len());
                    }
                    // Smaller ones come to an end, whatever sizes were drawn.
                    Err(SinkError::Permanent { .. }) if batch.len() > 1 => {
                        size_max = batch.len() / 2;
                        waiting.rotate_left(1);
                    }
                    Err(SinkError::Permanent { .. }) => {
                        prop_assert!(poison.contains(&batch[0].0));
                        prop_assert_eq!(deliver_anywhere(&mut *sink, &said, &[], &then).await, Ok(()));
                        said = then;
                        waiting.remove(0);
                    }
                    Err(error) => prop_assert!(false, "{}", error),
                }
            }
            Ok(())
        })?;
        account(&stage, 40, &poison.iter().copied().collect::<Vec<_>>());
        prop_assert_eq!(stage.notes(), poison.len());
    }
}

thread_local! {
    static SHARED: Rc<Stage> = Rc::new(Stage::start().commands(&COMMANDS));
}

async fn deliver_anywhere(
    sink: &mut dyn Sink,
    said: &Progress,
    records: &[(u64, String)],
    then: &Progress,
) -> Result<(), SinkError> {
    let mut beyond = Vec::new();
    then.encode_beyond(&mut beyond);
    let deliveries: Vec<_> = records
        .iter()
        .map(|(sequence, body)| forebay::sink::Delivery {
            sequence: *sequence,
            record: crate::record(body.as_bytes()),
            ticket: "q-1-0",
        })
        .collect();
    sink.commit(forebay::sink::Batch {
        after: said.through(),
        through: then.through(),
        beyond: Some(&beyond),
        deliveries: &deliveries,
        witnesses: &[],
        ahead: None,
    })
    .await
}

/// The server is killed again and again while orders, some of them poison, are on their way; it keeps what it has answered.
#[test]
fn kills_of_the_server_lose_and_double_nothing_with_poison_in_the_middle() {
    const KILLS: u64 = 12;
    const ORDERS: u64 = 3_000;
    let mut stage = Stage::start().commands(&COMMANDS);
    stage.commit_timeout_ms = 60_000;
    let poison: Vec<u64> = (1..=ORDERS).filter(|id| id % 97 == 0).collect();
    let mut drain = Drain { said: 0, refused: Vec::new(), takes_over: 0 };
    let mut sink = stage.sink();
    let mut next = 1;
    let mut kills = 0;
    stage.runtime.block_on(sink.take_over()).unwrap();
    while next <= ORDERS {
        let last = (next + 99).min(ORDERS);
        let orders: Vec<_> = (next..=last).map(|id| (id, order(id, poison.contains(&id)))).collect();
        // A kill falls into every third batch or so, some microseconds into it.
        let killer = (next > kills * ORDERS / (KILLS + 1) && kills < KILLS).then(|| {
            kills += 1;
            let (process, us) = (stage.server.process(), 37 * kills * kills);
            thread::spawn(move || {
                thread::sleep(std::time::Duration::from_micros(us));
                kill_process(process, Signal::KILL).unwrap();
            })
        });
        let is_killed = killer.is_some();
        let sent = stage.runtime.block_on(drain.send(&mut *sink, &orders, last));
        if let Some(killer) = killer {
            killer.join().unwrap();
            stage.server.wait();
            stage.server.restart();
        }
        if let Err(error) = sent {
            assert!(is_killed && matches!(error, SinkError::Transient(_)), "{error:?}");
            // The take-over failed, as the server was away; a start asks again.
            let found = stage.runtime.block_on(sink.take_over()).unwrap().through();
            assert!((drain.said..=last).contains(&found), "{found}");
            drain.said = found;
            next = found + 1;
        } else {
            if is_killed {
                assert_eq!(stage.runtime.block_on(sink.take_over()), at(last));
            }
            next = last + 1;
        }
    }
    assert_eq!(kills, KILLS);
    let refused: BTreeSet<_> = drain.refused.iter().map(|(id, _)| *id).collect();
    assert_eq!(refused, poison.iter().copied().collect());
    account(&stage, ORDERS, &poison);
}

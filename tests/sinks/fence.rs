//! Who may commit, and behind what.

use forebay::sink::Batch;
use futures_lite::future::poll_once;

use crate::database::Database;
use crate::{ORDERS, at, commit, created, is_fenced, is_transient, orders, statement};

pub fn a_replayed_batch_is_fenced(database: &Database) {
    database.execute(ORDERS);
    let mut sink = database.sink(&orders());
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        let bodies = [r#"{"id":1}"#, r#"{"id":2}"#];
        assert_eq!(commit(&mut *sink, 0, &bodies).await, Ok(()));
        let replayed = commit(&mut *sink, 0, &bodies).await;
        assert!(is_fenced(&replayed), "{replayed:?}");
        assert!(is_fenced(&commit(&mut *sink, 5, &[r#"{"id":3}"#]).await));
        assert_eq!(sink.take_over().await, at(2));
        assert_eq!(commit(&mut *sink, 2, &[r#"{"id":3}"#]).await, Ok(()));
    });
    assert_eq!(database.value("SELECT count(*) FROM orders"), "3");
}

pub fn an_older_owner_is_fenced(database: &Database) {
    database.execute(ORDERS);
    for target in [orders(), statement("INSERT INTO orders VALUES (:id, 0, '')", &[("id", "/id")])] {
        let (mut older, mut younger) = (database.sink(&target), database.sink(&target));
        database.runtime.block_on(async {
            let position = older.take_over().await.unwrap().through();
            assert_eq!(younger.take_over().await, at(position));
            let body = format!(r#"{{"id":{}}}"#, position + 1);
            let fenced = commit(&mut *older, position, &[&body]).await;
            assert!(is_fenced(&fenced), "{fenced:?}");
            assert_eq!(commit(&mut *younger, position, &[&body]).await, Ok(()));
            assert!(is_fenced(&commit::<&str>(&mut *older, position + 1, &[]).await));
        });
    }
    assert_eq!(database.value("SELECT count(*) FROM orders"), "2");
}

pub fn parts_are_apart(database: &Database) {
    let (mut one, mut two) = (database.sink_of("it's/1", &created()), database.sink_of("q/2", &created()));
    database.runtime.block_on(async {
        assert_eq!((one.take_over().await, two.take_over().await), (at(0), at(0)));
        assert_eq!(commit(&mut *one, 0, &["a", "b"]).await, Ok(()));
        assert_eq!(two.take_over().await, at(0));
        assert_eq!(one.take_over().await, at(2));
    });
}

pub fn an_empty_batch_moves_the_position(database: &Database) {
    let mut sink = database.sink(&created());
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(
            sink.commit(Batch { after: 0, through: 9, beyond: None, deliveries: &[], witnesses: &[], ahead: None })
                .await,
            Ok(())
        );
        assert!(is_fenced(
            &sink
                .commit(Batch { after: 0, through: 9, beyond: None, deliveries: &[], witnesses: &[], ahead: None })
                .await
        ));
        assert_eq!(sink.take_over().await, at(9));
    });
}

pub fn a_commit_needs_a_take_over(database: &Database) {
    let mut sink = database.sink(&created());
    assert!(is_transient(&database.runtime.block_on(commit(&mut *sink, 0, &["a"]))));
}

pub fn a_dropped_commit_leaves_nothing_half_done(database: &Database) {
    let mut sink = database.sink(&created());
    database.runtime.block_on(async {
        let mut position = sink.take_over().await.unwrap().through();
        for polls in 0..12 {
            {
                let bodies = ["a", "b"];
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
        assert_eq!(commit(&mut *sink, position, &["c"]).await, Ok(()));
    });
    // What is in the table is what the position says, whichever of the commits went through.
    assert_eq!(
        database.value("SELECT count(*) FROM forebay_q"),
        database.value("SELECT position FROM forebay_position")
    );
}

//! Lanes: which of them have a row, and that none speaks for rows that are not as far as they were.

use forebay::sink::{Batch, Claim, Part, Sink, SinkError, Subpart};

use crate::database::{Database, part_of};
use crate::{ORDERS, at, is_fenced, orders};

/// Moves the position by an empty batch that raises the epoch.
async fn step(sink: &mut dyn Sink, after: u64, witnesses: &[Claim]) -> Result<(), SinkError> {
    sink.commit(Batch { after, through: after + 1, beyond: Some(&[]), deliveries: &[], witnesses, ahead: None }).await
}

pub fn lanes_are_those_that_have_a_row(database: &Database) {
    database.execute(ORDERS);
    let mut first = database.sink(&orders());
    database.runtime.block_on(async {
        assert!(first.lanes().await.is_err(), "nothing is held");
        assert!(first.claim().is_none());
        first.take_over().await.unwrap();
        assert_eq!(first.lanes().await, Ok(vec![]));
        // A queue whose name only matches as a pattern, one whose id begins alike, a redrive.
        for part in ["q/1/lane-10", "q/1/lane-2", "q/1/redrive-a", "_/1/lane-3", "q/12/lane-4", "Q/1/lane-5"] {
            database.sink_of(part, &orders()).take_over().await.unwrap();
        }
        assert_eq!(first.lanes().await, Ok(vec![2, 10]));
        assert_eq!(step(&mut *first, 0, &[]).await, Ok(()), "the part is still held");
        database.sink_of("q/1/lane-x", &orders()).take_over().await.unwrap();
        let error = first.lanes().await.unwrap_err().to_string();
        assert!(error.contains("q/1/lane-x"), "{error}");
    });
}

pub fn nothing_is_committed_where_another_lane_was_set_back(database: &Database) {
    database.execute(ORDERS);
    let [mut first, mut second] = ["q/1", "q/1/lane-1"].map(|part| database.sink_of(part, &orders()));
    let claim = database.runtime.block_on(async {
        first.take_over().await.unwrap();
        second.take_over().await.unwrap();
        let before = second.claim().unwrap();
        assert_eq!(step(&mut *second, 0, &[first.claim().unwrap()]).await, Ok(()));
        let claim = second.claim().unwrap();
        assert!(&*claim.part == "q/1/lane-1" && claim.epoch > before.epoch, "{claim:?}");
        // Whoever has gone on since is no reason to stop.
        assert_eq!(step(&mut *first, 0, &[before]).await, Ok(()));
        assert_eq!(step(&mut *first, 1, std::slice::from_ref(&claim)).await, Ok(()));
        claim
    });
    database.execute("UPDATE forebay_position SET epoch = epoch - 1, position = 0 WHERE part = 'q/1/lane-1'");
    database.runtime.block_on(async {
        assert!(is_fenced(&step(&mut *first, 2, &[claim]).await));
        let gone = Claim { part: "q/1/lane-7".into(), epoch: 1 };
        assert!(is_fenced(&step(&mut *first, 2, &[gone]).await));
        assert_eq!(step(&mut *first, 2, &[]).await, Ok(()), "the connection is as good as before");
    });
    assert_eq!(database.value("SELECT position FROM forebay_position WHERE part = 'q/1'"), "3");
}

/// A process that was taken over must neither take its own row over once more nor one of a lane or a redrive, whether that is there or
/// not, and what it is refused changes nothing.
pub fn a_queue_that_was_taken_over_is_not_taken_over_once_more(database: &Database) {
    database.execute(ORDERS);
    let (older, younger) = (part_of("q/1", true), part_of("q/1", true));
    let sink = |part: &Part| database.sink_for(part, &orders());
    let rows = [Subpart::Lane(1), Subpart::Redrive("a")];
    let state = || database.rows("SELECT part, epoch, position FROM forebay_position ORDER BY part");
    let (mut of_older, mut of_younger) = (sink(&older), sink(&younger));
    database.runtime.block_on(async {
        assert_eq!(of_older.take_over().await, at(0));
        assert_eq!(of_older.take_over().await, at(0), "what is our own is taken over at any time");
        for row in rows {
            let mut row = sink(&older.subpart(row));
            assert_eq!(row.take_over().await, at(0));
            assert_eq!(row.take_over().await, at(0));
        }
        // A batch of its own, which raises the epoch, is no reason to refuse either.
        assert_eq!(step(&mut *of_older, 0, &[]).await, Ok(()));
        assert_eq!(of_older.take_over().await, at(1));
        // Nothing but the epoch of the first row says that somebody else was there.
        assert_eq!(of_younger.take_over().await, at(1));
    });
    let before = state();
    database.runtime.block_on(async {
        let refused = of_older.take_over().await.unwrap_err().to_string();
        assert!(refused.contains("another forebay has taken over") && refused.contains("q/1: "), "{refused}");
        for row in [rows[0], rows[1], Subpart::Lane(2)] {
            let refused = sink(&older.subpart(row)).take_over().await.map(|_| ());
            assert!(is_fenced(&refused), "{row:?}: {refused:?}");
        }
    });
    assert_eq!(state(), before, "something was written");
    database.runtime.block_on(async {
        assert_eq!(step(&mut *of_younger, 1, &[]).await, Ok(()));
        for row in rows {
            assert_eq!(sink(&younger.subpart(row)).take_over().await, at(0));
        }
        // Somebody who starts takes over from whoever is there.
        assert_eq!(sink(&part_of("q/1", true)).take_over().await, at(2));
    });
}

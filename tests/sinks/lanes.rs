//! Lanes: which of them have a row, and that none speaks for rows that are not as far as they were.

use forebay::sink::{Batch, Claim, Sink, SinkError};

use crate::database::Database;
use crate::{ORDERS, is_fenced, orders};

/// Moves the position by an empty batch that raises the epoch.
async fn step(sink: &mut dyn Sink, after: u64, witnesses: &[Claim]) -> Result<(), SinkError> {
    sink.commit(Batch { after, through: after + 1, beyond: Some(&[]), deliveries: &[], witnesses }).await
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
        assert_eq!((&*claim.part, claim.epoch), ("q/1/lane-1", before.epoch + 1));
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

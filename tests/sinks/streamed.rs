//! Batches with more rows than are encoded before the server takes them.

use crate::database::Database;
use crate::{at, commit, is_fenced, is_permanent, table};

/// Records of one KiB, several MiB together.
const RECORDS: usize = 3_000;

fn bodies() -> Vec<String> {
    let pad = "x".repeat(1_000);
    (1..=RECORDS).map(|id| format!(r#"{{"id":{id},"pad":"{pad}"}}"#)).collect()
}

/// The last row is found to fit in no way when the server has most of the others.
pub fn a_large_batch_goes_whole_or_not_at_all(database: &Database) {
    database.execute("CREATE TABLE streamed (id integer PRIMARY KEY, pad varchar(2000) NOT NULL)");
    let target = table("streamed", &[("id", "/id"), ("pad", "/pad")]);
    let mut sink = database.sink(&target);
    let (mut bodies, count) = (bodies(), "SELECT count(*) FROM streamed");
    let last = std::mem::replace(&mut bodies[RECORDS - 1], "no JSON".to_owned());
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        let refused = commit(&mut *sink, 0, &bodies).await;
        assert!(is_permanent(&refused), "{refused:?}");
    });
    assert_eq!(database.value(count), "0");
    bodies[RECORDS - 1] = last;
    let half = RECORDS / 2;
    // Without a connection of its own in between: what was abandoned leaves the session as it was.
    database.runtime.block_on(async {
        assert_eq!(commit(&mut *sink, 0, &bodies[..half]).await, Ok(()));
        assert_eq!(commit(&mut *sink, half as u64, &bodies[half..]).await, Ok(()));
        assert_eq!(sink.take_over().await, at(RECORDS as u64));
    });
    let sums = database.rows("SELECT count(*), sum(id), sum(length(pad)) FROM streamed");
    let wanted = [RECORDS, RECORDS * (RECORDS + 1) / 2, RECORDS * 1_000].map(|sum| Some(sum.to_string()));
    assert_eq!(sums, [wanted.to_vec()]);
}

/// It hears that it is fenced while its encoder waits for the server to take rows.
pub fn a_large_batch_of_an_older_owner_is_fenced(database: &Database) {
    database.execute("CREATE TABLE streamed (id integer PRIMARY KEY, pad varchar(2000) NOT NULL)");
    let target = table("streamed", &[("id", "/id"), ("pad", "/pad")]);
    let (mut older, mut younger) = (database.sink(&target), database.sink(&target));
    let bodies = bodies();
    database.runtime.block_on(async {
        assert_eq!(older.take_over().await, at(0));
        assert_eq!(younger.take_over().await, at(0));
        let fenced = commit(&mut *older, 0, &bodies).await;
        assert!(is_fenced(&fenced), "{fenced:?}");
        assert_eq!(commit(&mut *younger, 0, &bodies).await, Ok(()));
    });
    assert_eq!(database.value("SELECT count(*) FROM streamed"), RECORDS.to_string());
}

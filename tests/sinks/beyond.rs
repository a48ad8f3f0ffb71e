//! Delivery out of order: what is beyond the position is committed with it, in a column that older tables lack.

use forebay::limits::BEYOND_BYTES_MAX;
use forebay::progress::Progress;
use forebay::record::Sequence;
use forebay::sink::{Batch, Delivery, Sink, SinkError};

use crate::database::{Database, Kind, connect, reordering_sink_at, sink_at};
use crate::{ORDERS, at, commit, created, is_fenced, is_permanent, orders, record};

/// How the table of positions was created before it had the column.
const OLD_TABLE: &str =
    "CREATE TABLE forebay_position (part text PRIMARY KEY, epoch bigint NOT NULL, position bigint NOT NULL)";
/// What the owner of such a table is told to run.
const ADD_COLUMN: &str = "ALTER TABLE forebay_position ADD COLUMN IF NOT EXISTS beyond bytea";

fn progress(through: Sequence, beyond: &[Sequence]) -> Progress {
    let mut progress = Progress::up_to(through);
    for sequence in beyond {
        progress.mark(*sequence);
    }
    progress
}

/// Delivers orders of these numbers, from the position `after`; then so much is delivered.
async fn deliver(sink: &mut dyn Sink, after: Sequence, ids: &[u64], then: &Progress) -> Result<(), SinkError> {
    let bodies: Vec<_> = ids.iter().map(|id| format!(r#"{{"id":{id}}}"#)).collect();
    let deliveries: Vec<_> = ids
        .iter()
        .zip(&bodies)
        .map(|(sequence, body)| Delivery { sequence: *sequence, record: record(body.as_bytes()), ticket: "q-1-0" })
        .collect();
    let mut beyond = Vec::new();
    then.encode_beyond(&mut beyond);
    sink.commit(Batch {
        after,
        through: then.through(),
        beyond: Some(&beyond),
        deliveries: &deliveries,
        witnesses: &[],
        ahead: None,
    })
    .await
}

fn ids(database: &Database) -> Vec<u64> {
    let rows = database.rows("SELECT id FROM orders ORDER BY id");
    rows.iter().map(|row| row[0].as_ref().unwrap().parse().unwrap()).collect()
}

pub fn position_and_what_is_beyond_it_move_with_the_rows(database: &Database) {
    database.execute(ORDERS);
    let mut sink = database.reordering_sink(&orders());
    database.runtime.block_on(async {
        assert_eq!(sink.check().await, Ok(vec![]));
        assert_eq!(sink.take_over().await, at(0));
        let first = progress(1, &[3, 4, 9]);
        assert_eq!(deliver(&mut *sink, 0, &[1, 3, 4, 9], &first).await, Ok(()));
        // The database refuses an order that it has, and with it the other row, the position and what is beyond.
        let refused = deliver(&mut *sink, 1, &[6, 9], &progress(1, &[3, 4, 6, 9])).await;
        assert!(is_permanent(&refused), "{refused:?}");
        let refused = deliver(&mut *sink, 1, &[2, 9], &progress(4, &[9])).await;
        assert!(is_permanent(&refused), "{refused:?}");
        assert_eq!(sink.take_over().await, Ok(first));
        // The position need not move.
        let second = progress(1, &[3, 4, 7, 9]);
        assert_eq!(deliver(&mut *sink, 1, &[7], &second).await, Ok(()));
        assert_eq!(sink.take_over().await, Ok(second.clone()));
        // A configuration that does not reorder any more still learns what an earlier one has left.
        let mut in_order = database.sink(&orders());
        assert_eq!(in_order.take_over().await, Ok(second));
        assert_eq!(deliver(&mut *in_order, 1, &[2, 5, 6, 8], &progress(9, &[])).await, Ok(()));
        assert_eq!(commit(&mut *in_order, 9, &[r#"{"id":10}"#]).await, Ok(()));
        assert_eq!(in_order.take_over().await, at(10));
    });
    assert_eq!(ids(database), (1..=10).collect::<Vec<_>>());
    assert_eq!(database.value("SELECT count(*) FROM forebay_position WHERE beyond IS NULL"), "1");
}

pub fn a_batch_that_leaves_the_position_is_fenced_too(database: &Database) {
    database.execute(ORDERS);
    let (mut older, mut younger) = (database.reordering_sink(&orders()), database.reordering_sink(&orders()));
    let mut then = progress(0, &[2]);
    database.runtime.block_on(async {
        assert_eq!(older.take_over().await, at(0));
        assert_eq!(younger.take_over().await, at(0));
        assert!(is_fenced(&deliver(&mut *older, 0, &[2], &then).await));
        assert_eq!(deliver(&mut *younger, 0, &[2], &then).await, Ok(()));
    });
    database.execute("CREATE TABLE backup AS SELECT * FROM forebay_position");
    then.mark(4);
    assert_eq!(database.runtime.block_on(deliver(&mut *younger, 0, &[4], &then)), Ok(()));
    // The database is restored. The position is the same, and order 4 is gone.
    database.execute("DELETE FROM orders WHERE id = 4; DELETE FROM forebay_position");
    database.execute("INSERT INTO forebay_position SELECT * FROM backup");
    database.runtime.block_on(async {
        then.mark(6);
        assert!(is_fenced(&deliver(&mut *younger, 0, &[6], &then).await));
        assert!(is_fenced(&younger.take_over().await.map(|_| ())));
        assert_eq!(database.reordering_sink(&orders()).take_over().await, Ok(progress(0, &[2])), "a restart goes on");
    });
    assert_eq!(ids(database), [2]);
}

pub fn what_is_beyond_may_take_all_its_bytes(database: &Database) {
    database.execute(ORDERS);
    let mut sink = database.reordering_sink(&orders());
    // Every other record: two bytes for each.
    let mut then = progress(0, &(1..BEYOND_BYTES_MAX as u64 / 2).map(|n| 2 * n).collect::<Vec<_>>());
    assert_eq!(then.encoded_bytes(), BEYOND_BYTES_MAX - 1);
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        for id in [2, 1, 3] {
            let after = then.through();
            then.mark(id);
            assert_eq!(deliver(&mut *sink, after, &[id], &then).await, Ok(()));
        }
        assert_eq!(sink.take_over().await, Ok(then));
    });
    assert_eq!(ids(database), [1, 2, 3]);
}

pub fn what_is_beyond_must_make_sense(database: &Database) {
    let mut sink = database.sink(&created());
    assert_eq!(database.runtime.block_on(sink.take_over()), at(0));
    for (bytes, wanted) in [("00", "format 0"), ("01", "ends before"), ("010001", "byte 1")] {
        let hexadecimal = format!("x'{bytes}'");
        let literal = database.either(hexadecimal.clone(), format!("'\\x{bytes}'"), hexadecimal);
        database.execute(&format!("UPDATE forebay_position SET beyond = {literal}"));
        let refused = database.runtime.block_on(sink.take_over()).unwrap_err();
        assert!(
            matches!(&refused, SinkError::Transient(why) if why.contains("forebay_position.beyond") && why.contains(wanted)),
            "{refused:?}"
        );
    }
    database.execute("UPDATE forebay_position SET beyond = NULL, position = -1");
    let refused = database.runtime.block_on(sink.take_over()).unwrap_err();
    assert!(matches!(&refused, SinkError::Transient(why) if why.contains("no sequence")), "{refused:?}");
}

pub fn a_table_of_an_earlier_version_gets_the_column(database: &Database) {
    database.execute(ORDERS);
    for reorders in [false, true] {
        database.execute(OLD_TABLE);
        database.execute("INSERT INTO forebay_position VALUES ('q/1', 3, 7), ('other', 5, 9)");
        let mut sink = if reorders { database.reordering_sink(&orders()) } else { database.sink(&orders()) };
        database.runtime.block_on(async {
            assert_eq!(sink.check().await, Ok(vec![]));
            assert_eq!(sink.take_over().await, at(7));
            // A queue that does not reorder has no use for the column, but another one may.
            let then = progress(8, &[10]);
            assert_eq!(deliver(&mut *sink, 7, &[8, 10], &then).await, Ok(()));
            assert_eq!(sink.take_over().await, Ok(then));
        });
        assert_eq!(ids(database), [8, 10]);
        assert_eq!(
            database.value("SELECT position FROM forebay_position WHERE part = 'other' AND beyond IS NULL"),
            "9"
        );
        database.execute("DROP TABLE forebay_position; DELETE FROM orders");
    }
}

fn has_column(database: &Database) -> bool {
    let sql = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'forebay_position'::regclass AND attname = 'beyond'";
    database.value(sql) == "1"
}

#[test]
fn a_role_that_may_not_alter_the_table_delivers_in_order_only() {
    let database = Database::new(Kind::Postgres);
    let role = format!("clerk_{}", database.value("SELECT current_database()"));
    database.execute(&format!(
        "CREATE ROLE {role} LOGIN; {OLD_TABLE}; {ORDERS}; GRANT INSERT ON orders TO {role}; \
         GRANT SELECT, INSERT, UPDATE ON forebay_position TO {role}"
    ));
    let url = database.url.replace("//forebay@", &format!("//{role}@"));
    let mut in_order = sink_at(&url, Kind::Postgres, "q/1", &orders(), 10_000);
    let mut reordering = reordering_sink_at(&url, Kind::Postgres, &orders());
    database.runtime.block_on(async {
        assert_eq!(in_order.check().await, Ok(vec![]));
        assert_eq!(in_order.take_over().await, at(0));
        assert_eq!(commit(&mut *in_order, 0, &[r#"{"id":1}"#]).await, Ok(()));
        assert_eq!(in_order.take_over().await, at(1));
        let problems = reordering.check().await.unwrap();
        assert!(problems.len() == 1 && problems[0].contains(ADD_COLUMN), "{problems:?}");
        let refused = reordering.take_over().await.unwrap_err();
        assert!(matches!(&refused, SinkError::Transient(why) if why.contains(ADD_COLUMN)), "{refused:?}");
    });
    assert!(!has_column(&database));
    // What both say to run is enough.
    database.execute(ADD_COLUMN);
    database.runtime.block_on(async {
        assert_eq!(reordering.check().await, Ok(vec![]));
        assert_eq!(reordering.take_over().await, at(1));
        let then = progress(1, &[3]);
        assert_eq!(deliver(&mut *reordering, 1, &[3], &then).await, Ok(()));
        assert_eq!(reordering.take_over().await, Ok(then));
    });
    assert_eq!(ids(&database), [1, 3]);
    database.execute(&format!("DROP TABLE forebay_position, orders; DROP ROLE {role}"));
}

#[test]
fn a_table_that_somebody_reads_gets_the_column_another_time() {
    let database = Database::new(Kind::Postgres);
    database.execute(&format!("{OLD_TABLE}; {ORDERS}"));
    let (mut in_order, mut reordering) = (database.sink(&orders()), database.reordering_sink(&orders()));
    database.runtime.block_on(async {
        // A backup that is being made, for one.
        let reader = connect(&database.url).await;
        reader.batch_execute("BEGIN; SELECT * FROM forebay_position").await.unwrap();
        let refused = reordering.take_over().await.unwrap_err();
        assert!(matches!(&refused, SinkError::Transient(why) if why.contains("lock timeout")), "{refused:?}");
        assert_eq!(in_order.take_over().await, at(0));
        assert_eq!(commit(&mut *in_order, 0, &[r#"{"id":1}"#]).await, Ok(()));
        reader.batch_execute("COMMIT").await.unwrap();
    });
    assert!(!has_column(&database));
    assert_eq!(database.runtime.block_on(in_order.take_over()), at(1));
    assert!(has_column(&database));
}

//! A failover of PostgreSQL to a replica that has less, during the first take-over of a process or right behind it.

use std::time::Duration;

use forebay::config::Target;
use forebay::sink::{Batch, Part, SinkError, Subpart};
use tokio_postgres::Client;

use crate::database::{Database, Kind, connect, part_of, sink_for};
use crate::{at, commit, is_fenced, is_transient, table};

/// What the replica has of the positions, and how it becomes what everybody sees.
const REPLICATE: &str = "CREATE TABLE replica AS TABLE forebay_position";
const FAIL_OVER: &str = "DELETE FROM forebay_position; INSERT INTO forebay_position TABLE replica";
/// A server that is gone takes its sessions with it.
const END_SESSIONS: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
    WHERE datname = current_database() AND application_name = 'forebay'";
/// Lets no take-over write, but all of them try.
const REFUSE_TAKE_OVERS: &str = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
    $$ BEGIN RAISE EXCEPTION 'no take-over'; END $$; \
    CREATE TRIGGER refuse BEFORE UPDATE OF epoch ON forebay_position FOR EACH ROW EXECUTE FUNCTION refuse()";

/// Begins anew, with a table that doubles would show in.
fn begin(database: &Database) -> Target {
    database.execute(
        "DROP TABLE IF EXISTS forebay_position, replica, arrivals; CREATE TABLE arrivals (id serial, body text)",
    );
    table("arrivals", &[("body", "$body")])
}

fn arrivals(database: &Database) -> String {
    database.value("SELECT coalesce(string_agg(body, ' ' ORDER BY id), '') FROM arrivals")
}

/// The part of a process that has drawn this owner, of which there are 20 bits.
fn part_with(owner: u64, reorders: bool) -> Part {
    Part::new("q".to_owned(), None, "q/1".to_owned(), reorders, owner << 44)
}

fn says_set_back<T>(outcome: &Result<T, SinkError>) -> bool {
    matches!(outcome, Err(SinkError::Fenced(why)) if why.contains("the database was set back"))
}

/// Waits until so many sessions of this database wait for locks; a test that waits for nothing fails some time.
async fn until_waiting(observer: &Client, count: i64) {
    let sql = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) \
        WHERE NOT granted AND datname = current_database()";
    let waiting = async {
        while observer.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), waiting).await.unwrap();
}

/// Nothing is ours yet, so that there is nothing to be lost: positions decide.
#[test]
fn a_row_that_was_set_back_before_the_first_take_over_has_gone_through_is_taken_over() {
    let database = Database::new(Kind::Postgres);
    for (reorders, is_on_replica) in [(false, true), (false, false), (true, true), (true, false)] {
        let target = begin(&database);
        let [mut predecessor, mut ours] = [(); 2].map(|()| database.sink_for(&part_of("q/1", reorders), &target));
        database.runtime.block_on(async {
            assert_eq!(predecessor.take_over().await, at(0));
            assert_eq!(commit(&mut *predecessor, 0, &["a"]).await, Ok(()));
        });
        database.execute(REPLICATE);
        if !is_on_replica {
            database.execute("TRUNCATE replica, arrivals");
        }
        assert_eq!(database.runtime.block_on(predecessor.take_over()), at(1), "which raises the epoch");
        database.execute(REFUSE_TAKE_OVERS);
        let refused = database.runtime.block_on(ours.take_over()).map(drop);
        assert!(is_transient(&refused), "{refused:?}");
        database.execute("DROP FUNCTION refuse CASCADE");
        database.execute(FAIL_OVER);
        let position = u64::from(is_on_replica);
        database.runtime.block_on(async {
            assert_eq!(ours.take_over().await, at(position));
            assert!(is_fenced(&commit(&mut *predecessor, 1, &["of the predecessor"]).await));
            assert_eq!(commit(&mut *ours, position, &["b"]).await, Ok(()));
        });
        assert_eq!(arrivals(&database), if is_on_replica { "a b" } else { "b" });
    }
}

/// The row is set back between the COMMIT of the take-over and the question for the position, by somebody who has waited for the
/// table's lock meanwhile.
#[test]
fn a_row_that_was_set_back_before_its_position_was_read_halts_a_queue_with_lanes_only() {
    let database = Database::new(Kind::Postgres);
    for reorders in [false, true] {
        let target = begin(&database);
        let mut predecessor = database.sink_for(&part_of("q/1", reorders), &target);
        database.runtime.block_on(async {
            assert_eq!(predecessor.take_over().await, at(0));
            assert_eq!(commit(&mut *predecessor, 0, &["a"]).await, Ok(()));
        });
        database.execute(REPLICATE);
        // The longest that its transaction waits for the row's lock is a minute.
        let mut ours = sink_for(&database.url, Kind::Postgres, part_of("q/1", reorders), &target, 600_000, &[]);
        database.runtime.block_on(async {
            let [holder, server, observer] =
                [connect(&database.url).await, connect(&database.url).await, connect(&database.url).await];
            holder.batch_execute("BEGIN; SELECT FROM forebay_position FOR UPDATE").await.unwrap();
            let failing_over = async {
                until_waiting(&observer, 1).await;
                let lock = server.batch_execute("BEGIN; LOCK TABLE forebay_position");
                let release = async {
                    until_waiting(&observer, 2).await;
                    holder.batch_execute("ROLLBACK").await
                };
                let (locked, released) = tokio::join!(lock, release);
                locked.and(released).unwrap();
                server.batch_execute(&format!("{FAIL_OVER}; COMMIT")).await.unwrap();
            };
            let (taken, ()) = tokio::join!(ours.take_over(), failing_over);
            assert!(matches!(&taken, Err(SinkError::Transient(why)) if why.contains("was taken over")), "{taken:?}");
            let again = ours.take_over().await;
            if reorders {
                assert!(says_set_back(&again), "{again:?}");
                // A restart goes on.
                ours = database.sink_for(&part_of("q/1", reorders), &target);
                assert_eq!(ours.take_over().await, at(1));
            } else {
                assert_eq!(again, at(1));
            }
            assert_eq!(commit(&mut *ours, 1, &["b"]).await, Ok(()));
        });
        assert_eq!(arrivals(&database), "a b");
    }
}

/// Whoever has been told its position finds the row set back by its next batch, or when it takes over once more.
#[test]
fn a_row_that_was_set_back_right_behind_the_first_take_over_doubles_nothing() {
    let database = Database::new(Kind::Postgres);
    for (reorders, loses_its_connection) in [(false, false), (false, true), (true, false), (true, true)] {
        let target = begin(&database);
        let part = part_of("q/1", reorders);
        let [mut predecessor, mut ours] =
            [part_of("q/1", reorders), part.clone()].map(|part| database.sink_for(&part, &target));
        database.runtime.block_on(async {
            assert_eq!(predecessor.take_over().await, at(0));
            assert_eq!(commit(&mut *predecessor, 0, &["a"]).await, Ok(()));
        });
        database.execute(REPLICATE);
        assert_eq!(database.runtime.block_on(ours.take_over()), at(1));
        database.execute(FAIL_OVER);
        if loses_its_connection {
            database.execute(END_SESSIONS);
        }
        database.runtime.block_on(async {
            if reorders && !loses_its_connection {
                // The row of another lane says nothing of that, but the first one has to vouch for it before anything is sent.
                let mut lane = database.sink_for(&part.subpart(Subpart::Lane(1)), &target);
                assert_eq!(lane.take_over().await, at(0));
                let (witnesses, beyond) = ([lane.claim().unwrap()], Some(&[][..]));
                let vouching =
                    Batch { after: 1, through: 1, beyond, deliveries: &[], witnesses: &witnesses, ahead: None };
                assert!(is_fenced(&ours.commit(vouching).await));
            }
            let outcome = commit(&mut *ours, 1, &["b"]).await;
            assert!(if loses_its_connection { is_transient(&outcome) } else { is_fenced(&outcome) }, "{outcome:?}");
            let again = ours.take_over().await;
            if reorders {
                assert!(says_set_back(&again), "{again:?}");
            } else {
                assert_eq!(again, at(1));
                assert_eq!(commit(&mut *ours, 1, &["b"]).await, Ok(()));
            }
        });
        assert_eq!(arrivals(&database), if reorders { "a" } else { "a b" });
    }
}

/// Two processes that have found the same row, of which the database has kept the later one's take-over alone: whose number is higher
/// is chance, and must not count.
#[test]
fn whoever_takes_over_behind_a_failover_that_has_lost_ours_is_a_stranger() {
    let database = Database::new(Kind::Postgres);
    for (reorders, owners) in [(false, [2, 1]), (false, [1, 2]), (true, [2, 1]), (true, [1, 2])] {
        let target = begin(&database);
        let [mut older, mut younger] = owners.map(|owner| database.sink_for(&part_with(owner, reorders), &target));
        database.runtime.block_on(async {
            let mut predecessor = database.sink_for(&part_with(3, reorders), &target);
            assert_eq!(predecessor.take_over().await, at(0));
        });
        database.execute(REPLICATE);
        assert_eq!(database.runtime.block_on(older.take_over()), at(0));
        database.execute(FAIL_OVER);
        database.execute(END_SESSIONS);
        database.runtime.block_on(async {
            assert_eq!(younger.take_over().await, at(0));
            // As far as the older one's batch would have come: it must not pass for that.
            assert_eq!(commit(&mut *younger, 0, &["a"]).await, Ok(()));
            assert!(is_transient(&commit(&mut *older, 0, &["of the older one"]).await));
            let refused = older.take_over().await.map(drop);
            assert!(is_fenced(&refused), "{refused:?}");
            assert_eq!(commit(&mut *younger, 1, &["b"]).await, Ok(()));
        });
        assert_eq!(arrivals(&database), "a b");
    }
}

/// A database that was set back further says of a stranger's epoch no more than of any that was there before ours.
#[test]
fn whoever_takes_over_where_more_was_lost_may_lose_the_queue_again_and_nothing_is_doubled() {
    let database = Database::new(Kind::Postgres);
    for reorders in [false, true] {
        let target = begin(&database);
        let [mut predecessor, mut older, mut younger] =
            [(); 3].map(|()| database.sink_for(&part_of("q/1", reorders), &target));
        assert_eq!(database.runtime.block_on(predecessor.take_over()), at(0));
        database.execute("CREATE TABLE replica AS TABLE forebay_position WITH NO DATA");
        assert_eq!(database.runtime.block_on(older.take_over()), at(0));
        database.execute(FAIL_OVER);
        database.execute(END_SESSIONS);
        database.runtime.block_on(async {
            assert_eq!(younger.take_over().await, at(0));
            assert_eq!(commit(&mut *younger, 0, &["a"]).await, Ok(()));
            let again = older.take_over().await;
            if reorders {
                assert!(says_set_back(&again), "{again:?}");
                assert_eq!(commit(&mut *younger, 1, &["b"]).await, Ok(()));
            } else {
                assert_eq!(again, at(1), "which is not where it was");
                assert!(is_fenced(&commit(&mut *older, 0, &["of the older one"]).await));
                assert!(is_fenced(&commit(&mut *younger, 1, &["b"]).await));
                assert!(is_fenced(&younger.take_over().await.map(drop)));
            }
        });
        assert_eq!(arrivals(&database), if reorders { "a b" } else { "a" });
    }
}

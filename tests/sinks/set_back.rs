//! A failover of PostgreSQL to a replica that has less, during the first take-over of a process or right behind it.

use forebay::config::Target;
use forebay::sink::{Batch, SinkError, Subpart};
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

/// A database with a table that doubles would show in.
fn database() -> (Database, Target) {
    let database = Database::new(Kind::Postgres);
    database.execute("CREATE TABLE arrivals (id serial, body text)");
    (database, table("arrivals", &[("body", "$body")]))
}

fn arrivals(database: &Database) -> String {
    database.value("SELECT coalesce(string_agg(body, ' ' ORDER BY id), '') FROM arrivals")
}

fn says_set_back<T>(outcome: &Result<T, SinkError>) -> bool {
    matches!(outcome, Err(SinkError::Fenced(why)) if why.contains("the database was set back"))
}

/// Waits until so many sessions of this database wait for a lock.
async fn until_waiting(observer: &Client, count: i64) {
    let sql = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) \
        WHERE NOT granted AND datname = current_database()";
    while observer.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) != count {}
}

/// Nothing is ours yet, so that there is nothing to be lost: positions decide.
#[test]
fn a_row_that_was_set_back_before_the_first_take_over_has_gone_through_is_taken_over() {
    for (reorders, is_on_replica) in [(false, true), (false, false), (true, true), (true, false)] {
        let (database, target) = database();
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
    for reorders in [false, true] {
        let (database, target) = database();
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
            assert!(is_transient(&taken.clone().map(drop)), "{taken:?}");
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
    for (reorders, loses_its_connection) in [(false, false), (false, true), (true, false), (true, true)] {
        let (database, target) = database();
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
                let vouching = Batch { after: 1, through: 1, beyond, deliveries: &[], witnesses: &witnesses };
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

//! What only a server of MySQL or MariaDB can get into: a crash, a stuck predecessor, tables and statements that it cannot be trusted with.

use std::collections::BTreeSet;

use forebay::config::{Conflict, Target};
use forebay::sink::{Batch, Claim, SinkError, Subpart};
use futures_lite::future::poll_once;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::database::{Database, Kind, mysql, mysql_rows, part_of, sink_at, sink_for};
use crate::mysql_server::MysqlServer;
use crate::{at, commit, created, is_fenced, is_transient, statement, table};

#[test]
fn after_a_crash_of_the_server_nothing_is_lost_or_doubled() {
    let mut server = MysqlServer::start();
    let url = server.url("forebay");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut sink = sink_at(&url, Kind::Mysql, "q/1", &created(), 10_000);
    runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit(&mut *sink, 0, &["a", "b"]).await, Ok(()));
    });
    server.kill9();
    runtime.block_on(async {
        assert!(is_transient(&commit(&mut *sink, 2, &["c"]).await));
        // The connection is gone, and so it stays until the next take-over.
        assert!(is_transient(&commit(&mut *sink, 2, &["c"]).await));
        assert!(matches!(sink.take_over().await, Err(SinkError::Transient(_))));
    });
    server.restart();
    runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(2));
        assert_eq!(commit(&mut *sink, 2, &["c"]).await, Ok(()));
        let rows = mysql_rows(&url, "SELECT CONVERT(body USING utf8mb4) FROM forebay_q ORDER BY 1").await;
        assert_eq!(rows, ["a", "b", "c"].map(|body| vec![Some(body.to_owned())]));
    });
}

/// Whether somebody has locked the row of a part.
async fn is_locked(observer: &mut Conn, part: &str) -> bool {
    let sql = format!("SELECT 1 FROM forebay_position WHERE part = '{part}' FOR UPDATE NOWAIT");
    match observer.query_drop(sql).await {
        Ok(()) => false,
        Err(mysql_async::Error::Server(error)) if error.code == 1205 => true,
        Err(error) => panic!("{error}"),
    }
}

/// Lets a commit go on until the server has its fence, and no further.
async fn until_it_locks(
    part: &str,
    committing: &mut (impl Future<Output = Result<(), SinkError>> + Unpin),
    observer: &mut Conn,
) {
    while !is_locked(observer, part).await {
        assert_eq!(poll_once(&mut *committing).await, None);
    }
}

#[test]
fn a_predecessor_that_is_stuck_in_a_transaction_is_ended() {
    let database = Database::new(Kind::Mysql);
    let (mut older, mut younger) = (database.sink(&created()), database.sink(&created()));
    database.runtime.block_on(async {
        assert_eq!(older.take_over().await, at(0));
        let mut observer = mysql(&database.url).await;
        let mut stuck = Box::pin(commit(&mut *older, 0, &["a"]));
        until_it_locks("q/1", &mut stuck, &mut observer).await;
        // A second of patience for the lock, ten for everything.
        assert_eq!(younger.take_over().await, at(0));
        assert_eq!(commit(&mut *younger, 0, &["b"]).await, Ok(()));
        assert!(is_transient(&stuck.await));
        assert_eq!(younger.take_over().await, at(1));
    });
    assert_eq!(database.value("SELECT CONVERT(body USING utf8mb4) FROM forebay_q"), "b");
}

/// The sessions in the observer's database.
async fn sessions(observer: &mut Conn) -> BTreeSet<u64> {
    let sql = "SELECT id FROM information_schema.processlist WHERE db = DATABASE()";
    observer.query(sql).await.unwrap().into_iter().collect()
}

/// A take-over is refused in its transaction, and the lock of the row keeps it out of that: it has to look before it ends anybody.
#[test]
fn whoever_is_about_to_be_refused_does_not_end_the_session_of_its_successor() {
    let database = Database::new(Kind::Mysql);
    database.execute("CREATE TABLE held (body text)");
    let target = table("held", &[("body", "$body")]);
    let [older, younger] = [(); 2].map(|()| part_of("q/1", true)).map(|first| {
        let lane = first.subpart(Subpart::Lane(1));
        [first, lane]
    });
    let mut older = older.map(|part| database.sink_for(&part, &target));
    // Far longer than the second that the older ones wait for the lock.
    let mut younger = younger.map(|part| sink_for(&database.url, Kind::Mysql, part, &target, 60_000, &[]));
    database.runtime.block_on(async {
        let mut observer = mysql(&database.url).await;
        for sink in &mut older {
            assert_eq!(sink.take_over().await, at(0));
        }
        let before = sessions(&mut observer).await;
        for sink in &mut younger {
            assert_eq!(sink.take_over().await, at(0));
        }
        let of_younger = &sessions(&mut observer).await - &before;
        assert_eq!(of_younger.len(), 2);
        for (part, (older, younger)) in ["q/1", "q/1/lane-1"].into_iter().zip(older.iter_mut().zip(&mut younger)) {
            let mut committing = Box::pin(commit(&mut **younger, 0, &["a"]));
            until_it_locks(part, &mut committing, &mut observer).await;
            let refused = older.take_over().await.map(drop);
            assert!(is_fenced(&refused), "{refused:?}");
            assert_eq!(committing.await, Ok(()));
        }
        assert!(of_younger.is_subset(&sessions(&mut observer).await), "a session was ended");
    });
    assert_eq!(database.value("SELECT count(*) FROM held"), "2");
}

#[test]
fn what_a_silent_predecessor_holds_ends_by_itself() {
    let database = Database::new(Kind::Mysql);
    let mut sink = sink_at(&database.url, Kind::Mysql, "q/1", &created(), 2_000);
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        let mut observer = mysql(&database.url).await;
        let mut stuck = Box::pin(commit(&mut *sink, 0, &["a"]));
        until_it_locks("q/1", &mut stuck, &mut observer).await;
        while is_locked(&mut observer, "q/1").await {}
        drop(stuck);
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit(&mut *sink, 0, &["a"]).await, Ok(()));
    });
}

#[test]
fn a_stranger_that_holds_our_row_is_left_alone() {
    let database = Database::new(Kind::Mysql);
    let mut sink = database.sink(&created());
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        let mut stranger = mysql(&database.url).await;
        stranger.query_drop("START TRANSACTION; UPDATE forebay_position SET position = position + 1").await.unwrap();
        let refused = sink.take_over().await.unwrap_err();
        assert!(matches!(&refused, SinkError::Transient(why) if why.contains("forebay_position")), "{refused:?}");
        stranger.query_drop("ROLLBACK").await.unwrap();
        assert_eq!(sink.take_over().await, at(0));
    });
}

#[test]
fn a_commit_that_takes_too_long_is_transient_and_undone() {
    let database = Database::new(Kind::Mysql);
    database.execute("CREATE TABLE slow (n integer)");
    let target = statement("INSERT INTO slow SELECT :sequence FROM (SELECT sleep(600)) s", &[]);
    let mut sink = sink_at(&database.url, Kind::Mysql, "q/1", &target, 3_000);
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert!(is_transient(&commit(&mut *sink, 0, &["a"]).await));
        assert_eq!(sink.take_over().await, at(0));
    });
    assert_eq!(database.value("SELECT count(*) FROM slow"), "0");
}

#[test]
fn a_server_that_takes_no_load_data_any_more_gets_inserts() {
    let server = MysqlServer::start();
    let url = server.url("forebay");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut sink = sink_at(&url, Kind::Mysql, "q/1", &created(), 10_000);
    runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit(&mut *sink, 0, &["a"]).await, Ok(()));
        mysql_rows(&url, "SET GLOBAL local_infile = 0").await;
        assert_eq!(commit(&mut *sink, 1, &["b", "c"]).await, Ok(()));
        let rows = mysql_rows(&url, "SELECT count(*) FROM forebay_q").await;
        assert_eq!(rows, [vec![Some("3".to_owned())]]);
    });
}

#[test]
fn a_table_without_transactions_is_refused() {
    let database = Database::new(Kind::Mysql);
    database.execute("CREATE TABLE log (n bigint) ENGINE = MyISAM; CREATE TABLE `Odd log` (n bigint) ENGINE = Aria");
    let targets = [
        table("log", &[("n", "$sequence")]),
        table("Odd log", &[("n", "$sequence")]),
        statement("INSERT INTO LOG VALUES (:sequence)", &[]),
        statement("UPDATE `odd log` SET n = :sequence", &[]),
    ];
    let refused = |target| {
        let mut sink = database.sink(target);
        database.runtime.block_on(async {
            let problems = sink.check().await.unwrap().join("\n");
            assert!(problems.contains("has no transactions") && problems.contains("ENGINE = InnoDB"), "{problems}");
            let refused = sink.take_over().await.unwrap_err().to_string();
            assert!(refused.contains("has no transactions"), "{refused}");
        });
    };
    for target in &targets[..2] {
        refused(target);
    }
    // Whether case counts in a table's name is the server's own matter; a name that may be meant is enough.
    database.execute("CREATE TABLE `LOG` (n bigint); CREATE TABLE `odd log` (n bigint)");
    for target in &targets[2..] {
        refused(target);
    }
    database.execute("DROP TABLE log, `Odd log`; DROP TABLE IF EXISTS forebay_position");
    database.execute(
        "CREATE TABLE forebay_position (part varchar(100) PRIMARY KEY, epoch bigint, position bigint, beyond blob) \
         ENGINE = MyISAM",
    );
    refused(&created());
}

#[test]
fn a_statement_that_may_commit_is_refused() {
    let database = Database::new(Kind::Mysql);
    database.execute("CREATE TABLE t (n bigint); CREATE PROCEDURE p() COMMIT");
    for sql in ["CALL p()", "TRUNCATE t", "CREATE TABLE u (n bigint)", "INSERT INTO t VALUES (1) /*! ; COMMIT */"] {
        let mut sink = database.sink(&statement(sql, &[]));
        database.runtime.block_on(async {
            let problems = sink.check().await.unwrap();
            assert!(problems.len() == 1 && problems[0].contains("cannot be used"), "{problems:?}");
            assert!(matches!(sink.take_over().await, Err(SinkError::Transient(_))));
        });
    }
    // The server does not let a trigger or a function commit, not by a procedure either.
    database.execute("CREATE TRIGGER commits BEFORE INSERT ON t FOR EACH ROW CALL p()");
    let mut sink = database.sink(&statement("INSERT INTO t VALUES (:sequence)", &[]));
    let outcome = database.runtime.block_on(async {
        let after = sink.take_over().await.unwrap().through();
        commit(&mut *sink, after, &["a"]).await
    });
    assert!(outcome.is_err(), "{outcome:?}");
    assert_eq!(database.value("SELECT count(*) FROM t"), "0");
    assert_eq!(database.value("SELECT position FROM forebay_position"), "0");
}

#[test]
fn what_a_trigger_raises_is_permanent_and_ignore_is_its_author_s_wish() {
    let database = Database::new(Kind::Mysql);
    database.execute(
        "CREATE TABLE orders (id bigint PRIMARY KEY, small tinyint); CREATE TRIGGER refuse BEFORE INSERT ON orders \
         FOR EACH ROW IF NEW.id = 13 THEN SIGNAL SQLSTATE '45000' SET message_text = 'unlucky'; END IF",
    );
    let mut rows = database.sink(&table("orders", &[("id", "/id")]));
    let sql = "INSERT IGNORE INTO orders VALUES (:id, :small)";
    let mut ignoring = database.sink_of("q/2", &statement(sql, &[("id", "/id"), ("small", "/small")]));
    database.runtime.block_on(async {
        assert_eq!(rows.take_over().await, at(0));
        let outcome = commit(&mut *rows, 0, &[r#"{"id":1}"#, r#"{"id":13}"#]).await;
        assert!(
            matches!(&outcome, Err(SinkError::Permanent { message }) if message.contains("unlucky")),
            "{outcome:?}"
        );
        assert_eq!(commit(&mut *rows, 0, &[r#"{"id":1}"#]).await, Ok(()));
        assert_eq!(ignoring.take_over().await, at(0));
        assert_eq!(commit(&mut *ignoring, 0, &[r#"{"id":1}"#, r#"{"id":2}"#]).await, Ok(()));
        let outcome = commit(&mut *ignoring, 2, &[r#"{"id":3}"#, r#"{"id":4,"small":999}"#]).await;
        assert!(matches!(&outcome, Err(SinkError::Permanent { message }) if message.contains("1264")), "{outcome:?}");
    });
    assert_eq!(database.value("SELECT group_concat(id ORDER BY id) FROM orders"), "1,2");
}

#[test]
fn check_knows_privileges_and_an_account_without_create_can_work() {
    let database = Database::new(Kind::Mysql);
    let name = database.value("SELECT database()");
    let clerk = format!("clerk_{name}");
    database.execute(&format!(
        "CREATE USER {clerk}@'%'; CREATE TABLE orders (id integer, total numeric); CREATE TABLE other (n integer); \
         GRANT SELECT ON {name}.other TO {clerk}@'%'"
    ));
    let url = database.url.replace("//forebay@", &format!("//{clerk}@"));
    let targets = [
        table("orders", &[("id", "/id"), ("total", "/total")]),
        statement("INSERT INTO orders VALUES (:id, :total)", &[("id", "/id"), ("total", "/total")]),
    ];
    for (part, target) in ["q/1", "q/2"].into_iter().zip(targets) {
        let mut sink = sink_at(&url, Kind::Mysql, part, &target, 10_000);
        let problems = database.runtime.block_on(sink.check()).unwrap().join("\n");
        for wanted in ["CREATE TABLE IF NOT EXISTS forebay_position", "GRANT", "orders"] {
            assert!(problems.contains(wanted), "{problems}");
        }
        let refused = database.runtime.block_on(sink.take_over()).unwrap_err();
        assert!(refused.to_string().contains("CREATE TABLE IF NOT EXISTS forebay_position"), "{refused}");
        // What check() says to run is enough.
        database.execute(&format!(
            "CREATE TABLE forebay_position (part text PRIMARY KEY, epoch bigint NOT NULL, position bigint NOT NULL, \
             beyond mediumblob); GRANT SELECT, INSERT, UPDATE ON forebay_position TO {clerk}@'%'; \
             GRANT INSERT ON orders TO {clerk}@'%'"
        ));
        database.runtime.block_on(async {
            assert_eq!(sink.check().await, Ok(vec![]));
            assert_eq!(sink.take_over().await, at(0));
            assert_eq!(commit(&mut *sink, 0, &[r#"{"id":1,"total":0.10}"#]).await, Ok(()));
        });
        database.execute(&format!("DROP TABLE forebay_position; REVOKE INSERT ON orders FROM {clerk}@'%'"));
        database.execute(&format!("REVOKE SELECT, INSERT, UPDATE ON forebay_position FROM {clerk}@'%'"));
    }
    assert_eq!(database.value("SELECT group_concat(total) FROM orders"), "0.10,0.10");
    database.execute(&format!("DROP USER {clerk}@'%'"));
}

#[test]
fn nobody_to_talk_to_is_said_without_the_password() {
    let database = Database::new(Kind::Mysql);
    for url in [
        "mysql://u:secret@127.0.0.1:1/x".to_owned(),
        "mysql://u:secret@127.0.0.1:1".to_owned(),
        database.url.replace("//forebay@", "//nobody:secret@"),
    ] {
        let mut sink = sink_at(&url, Kind::Mysql, "q/1", &created(), 10_000);
        let problems = database.runtime.block_on(sink.check()).unwrap();
        assert!(problems.len() == 1 && !problems[0].contains("secret"), "{problems:?}");
        let refused = database.runtime.block_on(sink.take_over()).unwrap_err();
        assert!(matches!(&refused, SinkError::Transient(why) if !why.contains("secret")), "{refused:?}");
    }
}

#[test]
fn a_fenced_sink_holds_no_lock() {
    let database = Database::new(Kind::Mysql);
    let (mut older, mut younger) = (database.sink(&created()), database.sink(&created()));
    database.runtime.block_on(async {
        assert_eq!(older.take_over().await, at(0));
        assert_eq!(younger.take_over().await, at(0));
        assert!(is_fenced(&commit(&mut *older, 0, &["a"]).await));
        assert!(!is_locked(&mut mysql(&database.url).await, "q/1").await);
        assert_eq!(commit(&mut *younger, 0, &["a"]).await, Ok(()));
    });
}

#[test]
fn a_lane_does_not_wait_for_the_row_of_another() {
    let database = Database::new(Kind::Mysql);
    let [mut first, mut second] = ["q/1", "q/1/lane-1"].map(|part| database.sink_of(part, &created()));
    database.runtime.block_on(async {
        first.take_over().await.unwrap();
        second.take_over().await.unwrap();
        let claims: [Claim; 2] = [first.claim().unwrap(), second.claim().unwrap()];
        let mut observer = mysql(&database.url).await;
        let step = |witness| Batch {
            after: 0,
            through: 1,
            beyond: Some(&[]),
            deliveries: &[],
            witnesses: witness,
            ahead: None,
        };
        let mut on_its_way = first.commit(step(&claims[1..]));
        until_it_locks("q/1", &mut on_its_way, &mut observer).await;
        assert_eq!(second.commit(step(&claims[..1])).await, Ok(()));
        assert_eq!(on_its_way.await, Ok(()));
    });
}

/// ON DUPLICATE KEY takes any key for what was meant.
#[test]
fn a_table_with_another_unique_key_takes_no_conflicts() {
    let database = Database::new(Kind::Mysql);
    database
        .execute("CREATE TABLE orders (id integer PRIMARY KEY, email varchar(40), n integer AUTO_INCREMENT UNIQUE)");
    let target = |columns: &[(&str, &str)]| match table("orders", columns) {
        Target::Table { table, columns, rows, .. } => {
            let conflict = Conflict::Update(vec!["id".to_owned()]);
            Target::Table { table, columns, rows, conflict }
        }
        other => other,
    };
    let columns = [("id", "/id"), ("email", "/email")];
    let mut sink = database.sink(&target(&columns));
    // The server numbers the rows, and no record says its number.
    assert!(database.runtime.block_on(sink.take_over()).is_ok());
    database.execute("CREATE UNIQUE INDEX mail ON orders (email)");
    let (taken, found) = database.runtime.block_on(async { (sink.take_over().await, sink.check().await) });
    let said = taken.unwrap_err().to_string();
    assert!(said.contains("has another unique key, of `email`"), "{said}");
    assert!(found.unwrap().iter().any(|problem| problem.contains("another unique key")));
}

//! What a check finds, and what is said where a table is missing.

use crate::database::Database;
use crate::{ORDERS, at, commit, created, is_transient, orders, statement, table};

pub fn a_missing_table_is_transient_and_check_says_how_to_mend_it(database: &Database) {
    let mut sink = database.sink(&orders());
    database.runtime.block_on(async {
        let problems = sink.check().await.unwrap();
        assert_eq!(problems.len(), 1, "{problems:?}");
        let wanted = database.in_quotes("CREATE TABLE \"orders\" (\"id\"");
        assert!(problems[0].contains(&wanted), "{problems:?}");
        let outcome = match sink.take_over().await {
            Ok(progress) => commit(&mut *sink, progress.through(), &[r#"{"id":1}"#]).await,
            Err(error) => Err(error),
        };
        assert!(is_transient(&outcome), "{outcome:?}");
    });
    database.execute(ORDERS);
    database.runtime.block_on(async {
        let after = sink.take_over().await.unwrap().through();
        assert_eq!(commit(&mut *sink, after, &[r#"{"id":1}"#]).await, Ok(()));
    });
}

pub fn check_says_everything_at_once_and_changes_nothing(database: &Database) {
    database.execute(
        "CREATE TABLE orders (id integer PRIMARY KEY, must text NOT NULL, may text NOT NULL DEFAULT '', \
         twice integer GENERATED ALWAYS AS (2 * id) STORED)",
    );
    let columns = [("id", "/id"), ("twice", "/twice"), ("absent", "/absent")];
    let mut sink = database.sink(&table("orders", &columns));
    let problems = database.runtime.block_on(sink.check()).unwrap();
    assert_eq!(problems.len(), 3, "{problems:?}");
    let said = problems.join("\n");
    for wanted in
        ["\"twice\" of \"orders\" is generated", "ADD COLUMN \"absent\"", "\"must\" of \"orders\" is NOT NULL"]
    {
        assert!(said.contains(&database.in_quotes(wanted)), "{said}");
    }
    for (sql, wanted) in [
        ("INSERT INTO nowhere VALUES (:body)", "nowhere"),
        ("INSERT INTO orders VALUES (:nobody)", ":nobody"),
        ("SELECT 1; DROP TABLE orders", "more than one statement"),
    ] {
        let problems = database.runtime.block_on(database.sink(&statement(sql, &[])).check()).unwrap();
        assert!(problems.len() == 1 && problems[0].contains(wanted), "{problems:?}");
    }
    let tables = database.either(
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table'",
        "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace",
        "SELECT count(*) FROM information_schema.tables WHERE table_schema = database()",
    );
    assert_eq!(database.value(tables), "1");
}

pub fn check_finds_nothing_wrong_with_what_works(database: &Database) {
    let mut sink = database.sink(&created());
    database.runtime.block_on(async {
        assert_eq!(sink.check().await, Ok(vec![]));
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(sink.check().await, Ok(vec![]));
        assert_eq!(commit(&mut *sink, 0, &["a"]).await, Ok(()));
    });
}

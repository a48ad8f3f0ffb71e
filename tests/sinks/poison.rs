//! Records that a database refuses for good.

use forebay::sink::SinkError;

use crate::database::Database;
use crate::{ORDERS, at, commit, is_permanent, orders, some, statement, table};

pub fn a_poison_record_takes_its_batch_back(database: &Database) {
    database.execute(ORDERS);
    let mut sink = database.sink(&orders());
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert_eq!(commit(&mut *sink, 0, &[r#"{"id":1}"#]).await, Ok(()));
        let good = r#"{"id":2,"total":19.90,"note":"x"}"#;
        for poison in [r#"{"id":1}"#, r#"{"id":3,"total":-1}"#, r#"{"id":"three"}"#, "no json", "\u{1}"] {
            let outcome = commit(&mut *sink, 1, &[good, poison]).await;
            assert!(is_permanent(&outcome), "{poison}: {outcome:?}");
        }
        // The sink goes on without a new take-over.
        assert_eq!(commit(&mut *sink, 1, &[good]).await, Ok(()));
        assert_eq!(sink.take_over().await, at(2));
    });
    let total = database.either("19.9", "19.90", "19.90");
    assert_eq!(database.rows("SELECT id, total FROM orders WHERE id > 1"), [some(&["2", total])]);
}

pub fn a_poison_record_of_a_statement_takes_its_batch_back(database: &Database) {
    database.execute(ORDERS);
    let target = statement("INSERT INTO orders VALUES (:id, :total, NULL)", &[("id", "/id"), ("total", "/total")]);
    let mut sink = database.sink(&target);
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        let mut bodies: Vec<_> = (1..=600).map(|id| format!(r#"{{"id":{id},"total":1}}"#)).collect();
        bodies[300] = String::from(r#"{"id":301,"total":-1}"#);
        let outcome = commit(&mut *sink, 0, &bodies).await;
        let named = database.either("check", "check", "constraint");
        assert!(
            matches!(&outcome, Err(SinkError::Permanent { message }) if message.to_lowercase().contains(named)),
            "{outcome:?}"
        );
        assert_eq!(commit(&mut *sink, 0, &bodies[..300]).await, Ok(()));
    });
    assert_eq!(database.value("SELECT count(*) FROM orders"), "300");
    assert_eq!(database.value("SELECT position FROM forebay_position"), "300");
}

pub fn a_deferred_constraint_is_permanent(database: &Database) {
    database.execute("CREATE TABLE customers (id integer PRIMARY KEY)");
    database.execute(
        "CREATE TABLE orders (id integer PRIMARY KEY, \
         customer integer REFERENCES customers (id) DEFERRABLE INITIALLY DEFERRED)",
    );
    let mut sink = database.sink(&table("orders", &[("id", "/id"), ("customer", "/customer")]));
    database.runtime.block_on(async {
        assert_eq!(sink.take_over().await, at(0));
        assert!(is_permanent(&commit(&mut *sink, 0, &[r#"{"id":1,"customer":7}"#]).await));
        assert_eq!(commit(&mut *sink, 0, &[r#"{"id":1}"#]).await, Ok(()));
        assert_eq!(sink.take_over().await, at(1));
    });
    assert_eq!(database.value("SELECT count(*) FROM orders"), "1");
}

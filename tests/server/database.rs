//! Looks into the databases that were delivered into, and prepares them.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension};
use tokio_postgres::{NoTls, SimpleQueryMessage};

use super::{PATIENCE, eventually};

/// Runs statements on a SQLite file, which is made if need be.
pub fn sqlite_execute(path: &Path, sql: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    open(path).execute_batch(sql).unwrap();
}

/// All rows of a query, each value as text and NULL as `NULL`.
#[must_use]
pub fn sqlite_rows(path: &Path, sql: &str) -> Vec<Vec<String>> {
    let connection = open(path);
    let mut statement = connection.prepare(sql).unwrap();
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| {
        (0..columns)
            .map(|column| {
                Ok(match row.get_ref(column)? {
                    rusqlite::types::ValueRef::Null => "NULL".to_owned(),
                    rusqlite::types::ValueRef::Integer(number) => number.to_string(),
                    rusqlite::types::ValueRef::Real(number) => number.to_string(),
                    rusqlite::types::ValueRef::Text(bytes) | rusqlite::types::ValueRef::Blob(bytes) => {
                        String::from_utf8_lossy(bytes).into_owned()
                    }
                })
            })
            .collect()
    });
    rows.unwrap().collect::<rusqlite::Result<_>>().unwrap()
}

/// The first column of a query.
#[must_use]
pub fn sqlite_column(path: &Path, sql: &str) -> Vec<String> {
    sqlite_rows(path, sql).into_iter().map(|mut row| row.remove(0)).collect()
}

/// The bytes of the first value of a query, if there is a row.
#[must_use]
pub fn sqlite_bytes(path: &Path, sql: &str) -> Option<Vec<u8>> {
    open(path).query_row(sql, [], |row| row.get(0)).optional().unwrap()
}

/// Waits until a query returns just this many rows, and returns its first column.
pub fn until_sqlite_has(path: &Path, count: usize, sql: &str) -> Vec<String> {
    eventually(&format!("{count} rows of {sql}"), || {
        let has_tables = path.exists() && {
            let tables = "SELECT count(*) FROM sqlite_master WHERE name = 'forebay_position'";
            sqlite_column(path, tables)[0] == "1"
        };
        let found = if has_tables { sqlite_column(path, sql) } else { Vec::new() };
        assert!(found.len() <= count, "{} rows, where {count} were expected", found.len());
        (found.len() == count).then_some(found)
    })
}

fn open(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    connection
}

/// Runs statements on PostgreSQL; returns the rows of the last that has any, NULL as `NULL`.
///
/// # Errors
///
/// What the server, or the way to it, said.
pub fn try_postgres(url: &str, sql: &str) -> Result<Vec<Vec<String>>, tokio_postgres::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        let connection = tokio::spawn(connection);
        let messages = client.simple_query(sql).await?;
        drop(client);
        let _ = connection.await;
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let text = |value: Option<&str>| value.unwrap_or("NULL").to_owned();
        Ok(rows.map(|row| (0..row.len()).map(|column| text(row.get(column))).collect()).collect())
    })
}

/// As [`try_postgres`], where an error would be a failure of the test.
pub fn postgres(url: &str, sql: &str) -> Vec<Vec<String>> {
    try_postgres(url, sql).unwrap_or_else(|error| panic!("{sql}: {error}: {error:?}"))
}

/// The first column of a query.
#[must_use]
pub fn postgres_column(url: &str, sql: &str) -> Vec<String> {
    postgres(url, sql).into_iter().map(|mut row| row.remove(0)).collect()
}

/// Waits until a query returns just this many rows, and returns its first column.
pub fn until_postgres_has(url: &str, count: usize, sql: &str) -> Vec<String> {
    eventually(&format!("{count} rows of {sql}"), || {
        // Before the first take-over there is no table.
        let found: Vec<_> = try_postgres(url, sql).ok()?.into_iter().map(|mut row| row.remove(0)).collect();
        assert!(found.len() <= count, "{} rows, where {count} were expected", found.len());
        (found.len() == count).then_some(found)
    })
}

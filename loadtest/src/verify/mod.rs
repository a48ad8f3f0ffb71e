//! What the database really holds: counted from its own rows and stamped by its own clock.
//!
//! Nothing here trusts the server under load. The orders table stamps each row as it arrives, so the rate of the
//! drain, its worst second and its duplicates come from the database alone.

mod delivered;
mod postgres;
mod sqlite;
mod table;

pub use delivered::{Delivered, Verdict, compare};
pub(crate) use postgres::with_client as with_postgres;
pub(crate) use sqlite::open as open_sqlite;
pub use table::{OrdersTable, Sink};

use crate::order::RunId;
use delivered::Collector;
use std::error::Error;

/// Why the database cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The sink is neither a SQLite path nor a PostgreSQL URL.
    #[error("`{0}` is not a sink: use sqlite:PATH, a path, or postgres://…")]
    BadSink(String),
    /// A table or column name that is not a plain identifier.
    #[error("`{0}` is not a table or column name: use letters, digits and `_`, with dots between schema and table")]
    BadIdentifier(String),
    /// SQLite failed.
    #[error("SQLite: {0}")]
    Sqlite(rusqlite::Error),
    /// PostgreSQL failed.
    #[error("PostgreSQL: {}", postgres_reason(.0))]
    Postgres(tokio_postgres::Error),
    /// No runtime or thread to talk to PostgreSQL from.
    #[error("cannot start the PostgreSQL client: {0}")]
    Client(#[from] std::io::Error),
    /// The client's thread panicked.
    #[error("the PostgreSQL client failed")]
    ClientPanicked,
    /// A stamp that is no time.
    #[error("the row of `{order_id}` was not stamped with a time: {found}")]
    BadStamp {
        /// The row's order id.
        order_id: String,
        /// What the column holds instead.
        found: String,
    },
}

// Both messages already say what the driver said, so the driver's error is not a source that would say it again.
impl From<rusqlite::Error> for VerifyError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<tokio_postgres::Error> for VerifyError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error)
    }
}

/// The driver's own message is only that there was an error; what it was is in the source.
fn postgres_reason(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(answer) => answer.to_string(),
        None => error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}")),
    }
}

/// Creates the table that [`count`] reads, unless it exists: the columns of an order, the whole order as `body`, the
/// server's `ticket`, and the database's own stamp. There is no unique constraint, so that duplicates show.
///
/// # Errors
/// The database cannot be reached or refuses.
pub fn create_orders_table(sink: &Sink, table: &OrdersTable) -> Result<(), VerifyError> {
    match sink {
        Sink::Sqlite(path) => sqlite::create(path, table),
        Sink::Postgres(url) => postgres::create(url, table),
    }
}

/// Reads the rows of `run` and counts them, in memory of about 8 bytes a row. Blocks; may be called from any thread.
///
/// # Errors
/// The database cannot be reached, the table or a column is missing, or a stamp is no time.
pub fn count(sink: &Sink, table: &OrdersTable, run: &RunId) -> Result<Delivered, VerifyError> {
    let mut collector = Collector::new(run);
    match sink {
        Sink::Sqlite(path) => sqlite::read(path, table, run, &mut collector)?,
        Sink::Postgres(url) => postgres::read(url, table, run, &mut collector)?,
    }
    Ok(collector.finish())
}

/// Counts the rows of the table, whichever run they are of: cheap enough to call now and then while a drain goes on.
///
/// # Errors
/// The database cannot be reached, or the table is missing.
pub fn count_rows(sink: &Sink, table: &OrdersTable) -> Result<u64, VerifyError> {
    match sink {
        Sink::Sqlite(path) => sqlite::count_rows(path, table),
        Sink::Postgres(url) => postgres::count_rows(url, table),
    }
}

/// When each row of the table arrived, whichever run it is of, in microseconds since 1970 by the database's clock and in
/// ascending order. Blocks.
///
/// # Errors
/// The database cannot be reached, the table or its stamp is missing, or a stamp is no time.
pub fn stamps_us(sink: &Sink, table: &OrdersTable) -> Result<Vec<i64>, VerifyError> {
    match sink {
        Sink::Sqlite(path) => sqlite::stamps_us(path, table),
        Sink::Postgres(url) => postgres::stamps_us(url, table),
    }
}

/// Runs commands of a PostgreSQL database, as one transaction where they allow it. Blocks.
///
/// # Errors
/// The database cannot be reached or refuses.
pub fn execute(url: &str, sql: &str) -> Result<(), VerifyError> {
    postgres::execute(url, sql)
}

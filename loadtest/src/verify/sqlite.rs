//! Orders in a SQLite file.

use super::delivered::Collector;
use super::{OrdersTable, VerifyError};
use crate::order::RunId;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use std::path::Path;
use std::time::Duration;

/// How long to wait for a writer that holds the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

pub fn create(path: &Path, table: &OrdersTable) -> Result<(), VerifyError> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // With a write-ahead log, readers and the one writer don't block each other.
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.execute_batch(&format!(
        "CREATE TABLE IF NOT EXISTS {} ({} TEXT, user_id TEXT, quantity INTEGER, price_cents INTEGER, body TEXT,
         ticket TEXT, {} REAL DEFAULT (unixepoch('subsec')))",
        table.name, table.order_id, table.drained_at
    ))?;
    Ok(())
}

pub fn count_rows(path: &Path, table: &OrdersTable) -> Result<u64, VerifyError> {
    let connection = open(path)?;
    let sql = format!("SELECT count(*) FROM {}", table.name);
    Ok(connection.query_row(&sql, [], |row| row.get::<_, i64>(0))?.unsigned_abs())
}

pub fn read(path: &Path, table: &OrdersTable, run: &RunId, rows: &mut Collector<'_>) -> Result<(), VerifyError> {
    let connection = open(path)?;
    let mut statement = connection.prepare(&format!(
        "SELECT {id}, {stamp} FROM {table} WHERE substr({id}, 1, length(?1)) = ?1",
        id = table.order_id,
        stamp = table.drained_at,
        table = table.name
    ))?;
    let mut found = statement.query([format!("{run}-")])?;
    while let Some(row) = found.next()? {
        let ValueRef::Text(order_id) = row.get_ref(0)? else { continue };
        let order_id = String::from_utf8_lossy(order_id);
        let stamp = row.get_ref(1)?;
        let stamp_us = unix_us(stamp)
            .ok_or_else(|| VerifyError::BadStamp { order_id: order_id.to_string(), found: format!("{stamp:?}") })?;
        rows.row(&order_id, stamp_us);
    }
    Ok(())
}

pub fn stamps_us(path: &Path, table: &OrdersTable) -> Result<Vec<i64>, VerifyError> {
    let connection = open(path)?;
    let (id, stamp, table) = (&table.order_id, &table.drained_at, &table.name);
    let mut statement = connection.prepare(&format!("SELECT {stamp}, {id} FROM {table} ORDER BY 1"))?;
    let mut found = statement.query([])?;
    let mut stamps = Vec::new();
    while let Some(row) = found.next()? {
        let stamp = row.get_ref(0)?;
        let stamp_us = unix_us(stamp).ok_or_else(|| VerifyError::BadStamp {
            order_id: format!("{:?}", row.get_ref(1)),
            found: format!("{stamp:?}"),
        })?;
        stamps.push(stamp_us);
    }
    Ok(stamps)
}

/// Opens a file that is there, whoever else writes it.
pub fn open(path: &Path) -> Result<Connection, VerifyError> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

/// Seconds since 1970, whole or not, in microseconds; the cast saturates.
#[allow(clippy::cast_possible_truncation)]
fn unix_us(stamp: ValueRef<'_>) -> Option<i64> {
    match stamp {
        ValueRef::Real(seconds) if seconds.is_finite() => Some((seconds * 1e6).round() as i64),
        ValueRef::Integer(seconds) => seconds.checked_mul(1_000_000),
        _ => None,
    }
}

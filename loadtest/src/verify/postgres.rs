//! Orders in PostgreSQL.

use super::delivered::Collector;
use super::{OrdersTable, VerifyError};
use crate::order::RunId;
use std::thread;
use tokio_postgres::{Client, NoTls};

/// Rows fetched at a time, so that a large table does not have to fit into memory.
const PORTAL_ROWS: i32 = 20_000;

pub fn create(url: &str, table: &OrdersTable) -> Result<(), VerifyError> {
    let sql = format!(
        "CREATE TABLE IF NOT EXISTS {} ({} text, user_id text, quantity integer, price_cents integer, body text,
         ticket text, {} timestamptz DEFAULT clock_timestamp())",
        table.name, table.order_id, table.drained_at
    );
    with_client(url, async |client| Ok(client.batch_execute(&sql).await?))
}

pub fn count_rows(url: &str, table: &OrdersTable) -> Result<u64, VerifyError> {
    let sql = format!("SELECT count(*) FROM {}", table.name);
    with_client(url, async |client| Ok(client.query_one(&sql, &[]).await?.try_get::<_, i64>(0)?.unsigned_abs()))
}

pub fn read(url: &str, table: &OrdersTable, run: &RunId, rows: &mut Collector<'_>) -> Result<(), VerifyError> {
    let sql = format!(
        "SELECT {id}::text, round(extract(epoch FROM {stamp}) * 1000000)::bigint, {stamp}::text FROM {table}
         WHERE starts_with({id}::text, $1)",
        id = table.order_id,
        stamp = table.drained_at,
        table = table.name
    );
    let prefix = format!("{run}-");
    with_client(url, async |client| {
        let transaction = client.transaction().await?;
        let statement = transaction.prepare(&sql).await?;
        let portal = transaction.bind(&statement, &[&prefix]).await?;
        loop {
            let fetched = transaction.query_portal(&portal, PORTAL_ROWS).await?;
            if fetched.is_empty() {
                return Ok(());
            }
            for row in fetched {
                let order_id: &str = row.try_get(0)?;
                let Some(stamp_us) = row.try_get(1)? else {
                    let found = row.try_get::<_, Option<String>>(2)?.unwrap_or_else(|| "NULL".to_owned());
                    return Err(VerifyError::BadStamp { order_id: order_id.to_owned(), found });
                };
                rows.row(order_id, stamp_us);
            }
        }
    })
}

pub fn stamps_us(url: &str, table: &OrdersTable) -> Result<Vec<i64>, VerifyError> {
    let sql = format!(
        "SELECT round(extract(epoch FROM {stamp}) * 1000000)::bigint FROM {table} ORDER BY 1",
        stamp = table.drained_at,
        table = table.name
    );
    with_client(url, async |client| {
        let rows = client.query(&sql, &[]).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    })
}

pub fn execute(url: &str, sql: &str) -> Result<(), VerifyError> {
    with_client(url, async |client| Ok(client.batch_execute(sql).await?))
}

/// Connects and runs `work` on a thread and runtime of its own, so that the caller may itself be in a runtime.
pub fn with_client<T: Send>(
    url: &str,
    work: impl AsyncFnOnce(&mut Client) -> Result<T, VerifyError> + Send,
) -> Result<T, VerifyError> {
    let on_thread = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        runtime.block_on(async {
            let (mut client, connection) = tokio_postgres::connect(url, NoTls).await?;
            // A failure of the connection reaches the client through its next call.
            let driver = tokio::spawn(connection);
            let result = work(&mut client).await;
            drop(client);
            // Ends the session properly; what it could still report changes nothing about the result.
            let _ = driver.await;
            result
        })
    };
    thread::scope(|scope| scope.spawn(on_thread).join().unwrap_or(Err(VerifyError::ClientPanicked)))
}

//! Taking a part over: forebay's own tables, the epoch, and a predecessor that doesn't let go.

use std::time::Duration;

use tokio_postgres::types::{Kind, Type};
use tokio_postgres::{Client, Error, Statement};

use super::super::mapping::{Plan, TablePlan};
use super::session::{APPLICATION_NAME, Session, describe, is_lock_timeout};
use super::text::Form;

/// How forebay's own table is created.
pub(super) const POSITION_TABLE: &str = "CREATE TABLE IF NOT EXISTS forebay_position \
    (part text PRIMARY KEY, epoch bigint NOT NULL, position bigint NOT NULL)";

/// A session that holds the part.
pub(super) struct Open {
    pub(super) session: Session,
    pub(super) epoch: i64,
    /// COPY or the user's statement, prepared.
    pub(super) statement: Statement,
    /// How each column or parameter takes its values.
    pub(super) forms: Vec<Form>,
}

/// The statement that creates a table of forebay's own.
pub(super) fn created_table_sql(table: &TablePlan) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {} (ticket text PRIMARY KEY, received_at timestamptz NOT NULL, \
         key text, content_type text, body bytea NOT NULL)",
        table.quoted
    )
}

/// Raises the epoch; returns what was opened and the position.
///
/// # Errors
///
/// Why this process doesn't hold the part; the session is closed then.
pub(super) async fn take_over(
    session: Session,
    plan: &Plan,
    part: &str,
    patience: Duration,
) -> Result<(Open, i64), String> {
    let client = &session.client;
    create_missing(client, "forebay_position", POSITION_TABLE).await?;
    let (statement, forms) = match plan {
        Plan::Table(table) => prepare_copy(client, table).await?,
        Plan::Statement(statement) => {
            let statement = client.prepare(&statement.sql).await.map_err(|error| describe(&error))?;
            let forms = statement.params().iter().map(form).collect();
            (statement, forms)
        }
    };
    let (epoch, position) = match raise_epoch(client, part, patience).await {
        Err(error) if is_lock_timeout(&error) => {
            client.batch_execute("ROLLBACK").await.map_err(|error| describe(&error))?;
            end_predecessor(client, part).await?;
            raise_epoch(client, part, patience).await
        }
        settled => settled,
    }
    .map_err(|error| describe(&error))?;
    Ok((Open { session, epoch, statement, forms }, position))
}

/// Creates a table unless it exists. It is looked for first, because a role that may use
/// it need not be one that may create it.
async fn create_missing(client: &Client, quoted: &str, sql: &str) -> Result<(), String> {
    if exists(client, quoted).await.map_err(|error| describe(&error))? {
        return Ok(());
    }
    let Err(refused) = client.batch_execute(sql).await else {
        return Ok(());
    };
    // IF NOT EXISTS loses a race against another creator with an error, but the table is there then.
    if exists(client, quoted).await.unwrap_or(false) {
        return Ok(());
    }
    Err(format!(
        "the table {quoted} does not exist and cannot be created: {}; let its owner-to-be run: {sql};",
        describe(&refused)
    ))
}

/// Whether a table of this quoted name is visible.
pub(super) async fn exists(client: &Client, quoted: &str) -> Result<bool, Error> {
    client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&quoted]).await?.try_get(0)
}

async fn prepare_copy(client: &Client, table: &TablePlan) -> Result<(Statement, Vec<Form>), String> {
    if table.created {
        create_missing(client, &table.quoted, &created_table_sql(table)).await?;
    }
    // A SELECT is prepared for the columns' types, and is never run.
    let select = format!("SELECT {} FROM {}", table.quoted_columns(), table.quoted);
    let columns = client.prepare(&select).await.map_err(|error| describe(&error))?;
    let forms = columns.columns().iter().map(|column| form(column.type_())).collect();
    let copy = format!("COPY {} ({}) FROM STDIN", table.quoted, table.quoted_columns());
    let statement = client.prepare(&copy).await.map_err(|error| describe(&error))?;
    Ok((statement, forms))
}

/// How values of a type are written.
fn form(kind: &Type) -> Form {
    match kind.kind() {
        Kind::Domain(base) => form(base),
        _ if *kind == Type::BYTEA => Form::Hex,
        _ => Form::Plain,
    }
}

/// The COMMIT is a message of its own: if we are given up on before it, the server rolls
/// back and an attempt of the past cannot raise the epoch over a later one's.
async fn raise_epoch(client: &Client, part: &str, patience: Duration) -> Result<(i64, i64), Error> {
    let ms = patience.as_millis().clamp(1, 0x7fff_ffff);
    client.batch_execute(&format!("BEGIN; SET LOCAL lock_timeout = {ms}")).await?;
    client
        .execute(
            "INSERT INTO forebay_position (part, epoch, position) VALUES ($1, 0, 0) ON CONFLICT DO NOTHING",
            &[&part],
        )
        .await?;
    let row = client
        .query_one("UPDATE forebay_position SET epoch = epoch + 1 WHERE part = $1 RETURNING epoch, position", &[&part])
        .await?;
    let taken = (row.try_get(0)?, row.try_get(1)?);
    client.batch_execute("COMMIT").await?;
    Ok(taken)
}

/// Ends the forebay that holds our row's lock. A process that was stopped in the middle
/// of a COPY keeps it as long as its machine answers: no timeout of the server's ends
/// a session that waits for COPY's data.
async fn end_predecessor(client: &Client, part: &str) -> Result<(), String> {
    let ended = client
        .query(
            "SELECT pg_terminate_backend(l.pid) \
             FROM forebay_position p \
             JOIN pg_locks l ON l.locktype = 'transactionid' AND l.transactionid = p.xmax AND l.granted \
             JOIN pg_stat_activity a ON a.pid = l.pid \
             WHERE p.part = $1 AND a.application_name = $2 AND l.pid <> pg_backend_pid()",
            &[&part, &APPLICATION_NAME],
        )
        .await
        .map_err(|error| describe(&error))?;
    if ended.is_empty() {
        return Err(format!("another session, which is not forebay's, has locked the row {part} of forebay_position"));
    }
    Ok(())
}

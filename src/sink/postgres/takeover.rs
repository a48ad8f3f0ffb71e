//! Taking a part over: forebay's own tables, the epoch, and a predecessor that doesn't let go.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::{Client, Column, Error, Statement};

use super::super::encoding::TableEncoder;
use super::super::mapping::{Plan, TablePlan};
use super::super::statement::{literal, named, quoted};
use super::super::{Part, SinkError};
use super::session::{APPLICATION_NAME, Session, describe, is_lock_timeout};
use super::text::{Form, Lines, form};
use super::transient;
use crate::config::Conflict;

/// The statement that reads the epoch of a row.
const EPOCH: &str = "SELECT epoch FROM forebay_position WHERE part = $1";
/// How forebay's own table is created.
pub(super) const POSITION_TABLE: &str = "CREATE TABLE IF NOT EXISTS forebay_position \
    (part text PRIMARY KEY, epoch bigint NOT NULL, position bigint NOT NULL, beyond bytea)";
/// How the table of an earlier version gets the column that it lacks.
pub(super) const ADD_BEYOND: &str = "ALTER TABLE forebay_position ADD COLUMN IF NOT EXISTS beyond bytea";
/// The session's own table, into which COPY goes if a conflict is no error.
const STAGING_NAME: &str = "forebay_staging";
const STAGING_TABLE: &str = "pg_temp.forebay_staging";
/// The column of that table that says in which order rows came.
const ORDINAL: &str = "forebay_ordinal";
/// Time to wait for the lock under which the column is added, in milliseconds. Commits of all queues
/// stand behind whoever waits for it.
const ADD_BEYOND_LOCK_MS_MAX: u64 = 1_000;

/// A session that holds the part.
pub(super) struct Open {
    pub(super) session: Session,
    pub(super) epoch: i64,
    pub(super) work: Work,
}

/// What is prepared for each batch.
pub(super) enum Work {
    Copy(CopyWork),
    /// The user's statement, and how each parameter takes its values.
    Statement(Statement, Vec<Form>),
}

/// Rows of a table by COPY.
pub(super) struct CopyWork {
    pub(super) statement: Statement,
    pub(super) encoder: Arc<TableEncoder<Lines>>,
    /// What moves the rows from the session's table into the user's, if a conflict is no error.
    pub(super) merge: Option<Statement>,
}

/// What the row of the part holds.
pub(super) struct PositionRow {
    pub(super) position: i64,
    pub(super) beyond: Option<Vec<u8>>,
}

/// The statement that creates a table of forebay's own.
pub(super) fn created_table_sql(table: &TablePlan) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {} (ticket text PRIMARY KEY, received_at timestamptz NOT NULL, \
         key text, content_type text, body bytea NOT NULL)",
        table.quoted
    )
}

/// Raises the epoch; returns what was opened and how far the part is delivered.
///
/// # Errors
///
/// Why this process doesn't hold the part; the session is closed then.
pub(super) async fn take_over(
    session: Session,
    plan: &Plan,
    part: &Part,
    patience: Duration,
) -> Result<(Open, PositionRow), SinkError> {
    let client = &session.client;
    let work = prepare(client, plan).await.map_err(transient)?;
    let raised = match raise_epoch(client, part, patience).await {
        Err(error) if is_lock_timeout(&error) => {
            client.batch_execute("ROLLBACK").await.map_err(|error| transient(describe(&error)))?;
            // Whoever is about to be refused must not end the session of the one that holds the queue.
            let first = first_epoch(client, part).await.map_err(|error| transient(describe(&error)))?;
            part.look_at_first(first)?;
            end_predecessor(client, &part.id).await.map_err(transient)?;
            raise_epoch(client, part, patience).await
        }
        settled => settled,
    };
    let epoch = raised.map_err(|error| transient(describe(&error)))??;
    part.hold(epoch);
    // A predecessor that is stuck in a transaction would have kept the lock for this.
    let has_beyond = add_beyond(client, part.reorders).await.map_err(transient)?;
    let row = position_row(client, &part.id, epoch, has_beyond).await.map_err(transient)?;
    Ok((Open { session, epoch, work }, row))
}

/// Creates what is missing, and prepares what batches need.
async fn prepare(client: &Client, plan: &Plan) -> Result<Work, String> {
    create_missing(client, "forebay_position", POSITION_TABLE).await?;
    match plan {
        Plan::Table(table) => Ok(Work::Copy(prepare_copy(client, table).await?)),
        Plan::Statement(statement) => {
            let statement = client.prepare(&statement.sql).await.map_err(|error| describe(&error))?;
            let forms = statement.params().iter().map(form).collect();
            Ok(Work::Statement(statement, forms))
        }
    }
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

async fn prepare_copy(client: &Client, table: &TablePlan) -> Result<CopyWork, String> {
    if table.created {
        create_missing(client, &table.quoted, &created_table_sql(table)).await?;
    }
    // A SELECT is prepared for the columns' types, and is never run.
    let select = format!("SELECT {} FROM {}", table.quoted_columns(), table.quoted);
    let columns = client.prepare(&select).await.map_err(|error| describe(&error))?;
    let merge = match merge_sql(table) {
        None => None,
        Some(sql) => {
            client.batch_execute(&staging_sql(table)).await.map_err(|error| {
                format!("the rows of a batch need a temporary table, which cannot be made: {}", describe(&error))
            })?;
            Some(client.prepare(&sql).await.map_err(|error| describe(&error))?)
        }
    };
    let target = if merge.is_some() { STAGING_TABLE } else { &table.quoted };
    let copy = format!("COPY {target} ({}) FROM STDIN", table.quoted_columns());
    let statement = client.prepare(&copy).await.map_err(|error| describe(&error))?;
    let lines = Lines::new(columns.columns().iter().map(Column::type_));
    let encoder = Arc::new(TableEncoder::new(Arc::new(table.clone()), lines));
    Ok(CopyWork { statement, encoder, merge })
}

/// What makes the session's own table, with the columns' types and no constraint. WITH NO DATA reads nothing, so it asks for no
/// privilege on the user's table.
fn staging_sql(table: &TablePlan) -> String {
    format!(
        "CREATE TEMPORARY TABLE {STAGING_NAME} ON COMMIT DELETE ROWS AS SELECT {} FROM {} WITH NO DATA; \
         ALTER TABLE {STAGING_TABLE} ADD COLUMN {ORDINAL} bigint GENERATED ALWAYS AS IDENTITY",
        table.quoted_columns(),
        table.quoted
    )
}

/// What moves rows from the session's table into the user's; `None` if COPY goes there itself. An update may touch a row once, so
/// that of several rows with one key the last is taken; those in whose key there is a NULL are all different. Rows go in by their
/// keys, so that two transactions lock them in the same order.
fn merge_sql(table: &TablePlan) -> Option<String> {
    let (name, columns, conflict) = (&table.quoted, table.quoted_columns(), table.conflict_clause());
    let rows = match &table.conflict {
        Conflict::Error => return None,
        Conflict::Ignore(keys) => {
            format!("SELECT {columns} FROM {STAGING_TABLE} ORDER BY {}, {ORDINAL}", named(keys))
        }
        Conflict::Update(keys) => {
            let keys: Vec<_> = keys.iter().map(|key| quoted(key)).collect();
            let has_null: Vec<_> = keys.iter().map(|key| format!("{key} IS NULL")).collect();
            let apart = format!("CASE WHEN {} THEN {ORDINAL} END", has_null.join(" OR "));
            let keys = keys.join(", ");
            format!(
                "SELECT DISTINCT ON ({keys}, {apart}) {columns} FROM {STAGING_TABLE} ORDER BY {keys}, {apart}, {ORDINAL} DESC"
            )
        }
    };
    Some(format!("INSERT INTO {name} ({columns}) {rows}{conflict}"))
}

/// The epoch of the queue's first row, 0 if it is not there, without waiting for anybody.
async fn first_epoch(client: &Client, part: &Part) -> Result<i64, Error> {
    let first = part.first().unwrap_or(&part.id);
    client.query_opt(EPOCH, &[&first]).await?.map_or(Ok(0), |row| row.try_get(0))
}

/// The COMMIT is a message of its own: if we are given up on before it, the server rolls
/// back and an attempt of the past cannot raise the epoch over a later one's.
async fn raise_epoch(client: &Client, part: &Part, patience: Duration) -> Result<Result<i64, SinkError>, Error> {
    let ms = patience.as_millis().clamp(1, 0x7fff_ffff);
    let row = literal(&part.id);
    let begin = format!(
        "BEGIN; SET LOCAL lock_timeout = {ms}; \
         INSERT INTO forebay_position (part, epoch, position) VALUES ({row}, 0, 0) ON CONFLICT DO NOTHING"
    );
    client.batch_execute(&begin).await?;
    let found = client.query_one(&format!("{EPOCH} FOR UPDATE"), &[&part.id]).await?.try_get(0)?;
    let first = match part.first() {
        None => found,
        // A statement of its own, so that it sees what was committed while the lock was waited for.
        Some(_) => first_epoch(client, part).await?,
    };
    let next = match part.succeed(found, first) {
        Ok(next) => next,
        Err(refused) => {
            client.batch_execute("ROLLBACK").await?;
            return Ok(Err(refused));
        }
    };
    client.batch_execute(&format!("UPDATE forebay_position SET epoch = {next} WHERE part = {row}")).await?;
    client.batch_execute("COMMIT").await?;
    Ok(Ok(next))
}

/// Whether the table of positions has the column `beyond`; those of earlier versions lack it.
pub(super) async fn has_beyond(client: &Client) -> Result<bool, Error> {
    let sql = "SELECT EXISTS (SELECT FROM pg_attribute \
        WHERE attrelid = to_regclass('forebay_position') AND attname = 'beyond' AND NOT attisdropped)";
    client.query_one(sql, &[]).await?.try_get(0)
}

/// Whether we may alter the table of positions.
pub(super) async fn owns_position_table(client: &Client) -> Result<bool, Error> {
    let sql = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass('forebay_position')";
    client.query_one(sql, &[]).await?.try_get(0)
}

/// Adds the column unless it is there; `false` if it cannot be added, and is not needed: in a column
/// that does not exist there is nothing, and a queue that delivers in order writes nothing to it.
async fn add_beyond(client: &Client, reorders: bool) -> Result<bool, String> {
    if has_beyond(client).await.map_err(|error| describe(&error))? {
        return Ok(true);
    }
    // A role that works without the column need not leave an error in the server's log at every take-over.
    if !reorders && !owns_position_table(client).await.map_err(|error| describe(&error))? {
        return Ok(false);
    }
    let sql = format!("BEGIN; SET LOCAL lock_timeout = {ADD_BEYOND_LOCK_MS_MAX}; {ADD_BEYOND}; COMMIT");
    let Err(refused) = client.batch_execute(&sql).await else {
        return Ok(true);
    };
    client.batch_execute("ROLLBACK").await.map_err(|error| describe(&error))?;
    // Another drain may have added it while this one waited for the lock.
    if has_beyond(client).await.map_err(|error| describe(&error))? {
        return Ok(true);
    }
    if reorders {
        return Err(format!(
            "the table forebay_position has no column beyond, which a queue that delivers out of order needs, and it \
             cannot be added: {}; let the table's owner run: {ADD_BEYOND};",
            describe(&refused)
        ));
    }
    Ok(false)
}

/// Reads the row of a part that we hold. Nobody else can have moved it since the epoch was raised.
async fn position_row(client: &Client, part: &str, epoch: i64, has_beyond: bool) -> Result<PositionRow, String> {
    let beyond = if has_beyond { "beyond" } else { "NULL::bytea" };
    let sql = format!("SELECT position, {beyond} FROM forebay_position WHERE part = $1 AND epoch = $2");
    let row = client.query_opt(&sql, &[&part, &epoch]).await.map_err(|error| describe(&error))?;
    let row = row.ok_or_else(|| format!("the part {part} was taken over by another forebay meanwhile"))?;
    let read = || Ok(PositionRow { position: row.try_get(0)?, beyond: row.try_get(1)? });
    read().map_err(|error: Error| describe(&error))
}

/// The parts that begin with a prefix.
pub(super) async fn parts_with_prefix(client: &Client, prefix: &str) -> Result<Vec<String>, Error> {
    let sql = "SELECT part FROM forebay_position WHERE left(part, length($1)) = $1";
    client.query(sql, &[&prefix]).await?.iter().map(|row| row.try_get(0)).collect()
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

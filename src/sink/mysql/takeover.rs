//! Taking a part over: forebay's own tables, the epoch, and a predecessor that doesn't let go.

use std::hash::Hasher as _;
use std::sync::Arc;
use std::time::Duration;

use siphasher::sip128::{Hasher128 as _, SipHasher13};

use super::super::encoding::TableEncoder;
use super::super::mapping::{Plan, StatementPlan, TablePlan, given_type};
use super::super::{Part, SinkError};
use super::columns::{
    self, columns, engine_problem, engine_without_transactions, other_key, other_key_problem,
    tables_without_transactions, unique_keys,
};
use super::session::{Failure, Session, seconds};
use super::text::{Form, Lines, TimeShape, quoted_text};
use super::transient;
use crate::config::{Assignment, Conflict};
use crate::value::ValueType;

/// How forebay's own table is created. Parts are told apart by the case of their letters.
pub(super) const POSITION_TABLE: &str = "CREATE TABLE IF NOT EXISTS forebay_position \
    (part varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PRIMARY KEY, epoch bigint NOT NULL, \
    position bigint NOT NULL, beyond mediumblob) ENGINE = InnoDB";
/// How the table of an earlier version gets the column that it lacks.
pub(super) const ADD_BEYOND: &str = "ALTER TABLE forebay_position ADD COLUMN beyond mediumblob";
/// Seconds to wait for the lock under which the column is added. Commits of all queues stand behind whoever waits for it.
const ADD_BEYOND_LOCK_SECONDS_MAX: u64 = 1;
/// What is killed has gone already.
const NO_SUCH_THREAD: u16 = 1094;

/// A session that holds the part.
pub(super) struct Open {
    pub(super) session: Session,
    pub(super) epoch: i64,
    /// How each column or parameter takes its values.
    pub(super) forms: Vec<Form>,
    /// What encodes rows for LOAD DATA, if they go by it.
    pub(super) loader: Option<Loader>,
}

/// Encodes rows for LOAD DATA.
pub(super) type Loader = Arc<TableEncoder<Lines>>;

/// What the row of the part holds.
pub(super) struct PositionRow {
    pub(super) position: i64,
    pub(super) beyond: Option<Vec<u8>>,
}

/// The statement that creates a table of forebay's own.
pub(super) fn created_table_sql(table: &TablePlan) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {} (ticket varchar(255) PRIMARY KEY, received_at datetime(6) NOT NULL, `key` text, \
         content_type text, body longblob NOT NULL) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
        table.quoted
    )
}

/// Raises the epoch; returns what was opened and how far the part is delivered.
///
/// # Errors
///
/// Why this process doesn't hold the part; the session is closed then.
pub(super) async fn take_over(
    mut session: Session,
    plan: &Plan,
    part: &Part,
    patience: Duration,
) -> Result<(Open, PositionRow), SinkError> {
    let (forms, loader) = look(&mut session, plan).await.map_err(transient)?;
    // A successor knows by it which sessions are those of a forebay that has held this part. A server that has no such
    // locks only leaves it to wait for them.
    let failed = |failure: Failure| transient(failure.to_string());
    let name = session_lock(&mut session, &part.id).await.map_err(failed)?;
    let _ = session.run(&format!("DO GET_LOCK(CONCAT({}, CONNECTION_ID()), 0)", quoted_text(&name))).await;
    let raised = match raise_epoch(&mut session, part, patience).await {
        Err(failure) if failure.is_lock_timeout() => {
            session.run("ROLLBACK").await.map_err(failed)?;
            // Whoever is about to be refused must not end the session of the one that holds the queue.
            part.look_at_first(first_epoch(&mut session, part).await.map_err(failed)?)?;
            end_predecessors(&mut session, &part.id, &name).await.map_err(transient)?;
            raise_epoch(&mut session, part, patience).await
        }
        settled => settled,
    };
    let epoch = raised.map_err(failed)??;
    part.hold(epoch);
    // A predecessor that is stuck in a transaction would have kept the lock for this.
    let has_beyond = add_beyond(&mut session, part.reorders).await.map_err(transient)?;
    let row = position_row(&mut session, &part.id, epoch, has_beyond).await.map_err(transient)?;
    Ok((Open { session, epoch, forms, loader }, row))
}

/// Creates what is missing, and looks at what batches are to write to.
async fn look(session: &mut Session, plan: &Plan) -> Result<(Vec<Form>, Option<Loader>), String> {
    create_missing(session, "forebay_position", POSITION_TABLE).await?;
    refuse_engine(session, None, "forebay_position", "forebay_position").await?;
    match plan {
        Plan::Table(table) => look_at_table(session, table).await,
        Plan::Statement(statement) => Ok((look_at_statement(session, statement).await?, None)),
    }
}

/// Creates a table unless it exists. It is looked for first, because an account that may use it need not be one that may
/// create it.
async fn create_missing(session: &mut Session, quoted: &str, sql: &str) -> Result<(), String> {
    if columns(session, quoted).await.map_err(|failure| failure.to_string())?.is_some() {
        return Ok(());
    }
    session.run(sql).await.map_err(|refused| {
        format!(
            "the table {quoted} does not exist, or is not to be seen by us, and cannot be created: {refused}; \
             let whoever may run: {sql};"
        )
    })
}

async fn refuse_engine(session: &mut Session, schema: Option<&str>, name: &str, quoted: &str) -> Result<(), String> {
    match engine_without_transactions(session, schema, name).await {
        Ok(None) => Ok(()),
        Ok(Some(engine)) => Err(engine_problem(quoted, &engine)),
        Err(failure) => Err(failure.to_string()),
    }
}

async fn look_at_table(session: &mut Session, table: &TablePlan) -> Result<(Vec<Form>, Option<Loader>), String> {
    if table.created {
        create_missing(session, &table.quoted, &created_table_sql(table)).await?;
    }
    let found = columns(session, &table.quoted).await.map_err(|failure| failure.to_string())?;
    let found =
        found.ok_or_else(|| format!("the table {} does not exist, or is not to be seen by us", table.quoted))?;
    refuse_engine(session, table.schema.as_deref(), &table.name, &table.quoted).await?;
    if table.conflict != Conflict::Error {
        let unique = unique_keys(session, table.schema.as_deref(), &table.name);
        let unique = unique.await.map_err(|failure| failure.to_string())?;
        if let Some(key) = other_key(table, &unique) {
            return Err(other_key_problem(&table.quoted, key));
        }
    }
    let (forms, loads) = columns::forms(table, &found)?;
    // LOAD DATA knows no other answer to a row that is there already than to replace all of it.
    let loads = loads && session.loads_local && table.conflict == Conflict::Error;
    let loader = loads.then(|| {
        let lines = Lines { forms: forms.clone() };
        Arc::new(TableEncoder::new(Arc::new(table.clone()), lines))
    });
    Ok((forms, loader))
}

async fn look_at_statement(session: &mut Session, plan: &StatementPlan) -> Result<Vec<Form>, String> {
    // The server takes one statement here and no more, whatever our tokenizer believes.
    session.try_prepare(&plan.sql).await.map_err(|failure| failure.to_string())?;
    let tables = tables_without_transactions(session, &plan.sql).await.map_err(|failure| failure.to_string())?;
    if let Some((table, engine)) = tables.first() {
        return Err(engine_problem(table, engine));
    }
    let form = |(_, assignment): &(String, Assignment)| match given_type(assignment) {
        // What follows the seconds of a column that has none is cut, and a time with an offset is none to every server.
        Some(ValueType::Timestamp | ValueType::UnixS | ValueType::UnixMs) => Form::Time(TimeShape::Moment(6)),
        _ => Form::Literal,
    };
    Ok(plan.parameters.iter().map(form).collect())
}

/// The COMMIT is a message of its own: if we are given up on before it, the server rolls back and an attempt of the past
/// cannot raise the epoch over a later one's.
async fn raise_epoch(
    session: &mut Session,
    part: &Part,
    patience: Duration,
) -> Result<Result<i64, SinkError>, Failure> {
    let row = quoted_text(&part.id);
    let (patience, silence) = (seconds(patience), session.silence_seconds);
    // An update that changes nothing locks the row that is there.
    session
        .run(&format!(
            "SET innodb_lock_wait_timeout = {patience}, wait_timeout = {silence}; START TRANSACTION; \
             INSERT INTO forebay_position (part, epoch, position) VALUES ({row}, 0, 0) \
             ON DUPLICATE KEY UPDATE epoch = epoch"
        ))
        .await?;
    let found = session.one(&epoch_sql(&row)).await?;
    let first = match part.first() {
        None => found,
        Some(_) => first_epoch(session, part).await?,
    };
    let next = match part.succeed(found, first) {
        Ok(next) => next,
        Err(refused) => {
            session.run("ROLLBACK").await?;
            return Ok(Err(refused));
        }
    };
    let settle = format!(
        "UPDATE forebay_position SET epoch = {next} WHERE part = {row}; \
         COMMIT; SET innodb_lock_wait_timeout = {silence}, wait_timeout = DEFAULT"
    );
    session.run(&settle).await?;
    Ok(Ok(next))
}

/// The epoch of the queue's first row, 0 if it is not there, without waiting for anybody.
async fn first_epoch(session: &mut Session, part: &Part) -> Result<i64, Failure> {
    let first = part.first().unwrap_or(&part.id);
    Ok(session.rows(&epoch_sql(&quoted_text(first))).await?.pop().unwrap_or_default())
}

fn epoch_sql(part: &str) -> String {
    format!("SELECT epoch FROM forebay_position WHERE part = {part}")
}

/// Reads the row of a part that we hold. Nobody else can have moved it since the epoch was raised.
async fn position_row(session: &mut Session, part: &str, epoch: i64, has_beyond: bool) -> Result<PositionRow, String> {
    let beyond = if has_beyond { "beyond" } else { "NULL" };
    let part_quoted = quoted_text(part);
    let sql = format!("SELECT position, {beyond} FROM forebay_position WHERE part = {part_quoted} AND epoch = {epoch}");
    let found: Vec<(i64, Option<Vec<u8>>)> = session.rows(&sql).await.map_err(|failure| failure.to_string())?;
    let row = found.into_iter().next().map(|(position, beyond)| PositionRow { position, beyond });
    row.ok_or_else(|| format!("the part {part} was taken over by another forebay meanwhile"))
}

/// Adds the column unless it is there; `false` if it cannot be added, and is not needed: in a column that does not exist
/// there is nothing, and a queue that delivers in order writes nothing to it.
async fn add_beyond(session: &mut Session, reorders: bool) -> Result<bool, String> {
    if has_beyond(session).await.map_err(|failure| failure.to_string())? {
        return Ok(true);
    }
    let seconds = session.silence_seconds;
    let sql = format!("SET lock_wait_timeout = {ADD_BEYOND_LOCK_SECONDS_MAX}; {ADD_BEYOND}");
    let added = session.run(&sql).await;
    session.run(&format!("SET lock_wait_timeout = {seconds}")).await.map_err(|failure| failure.to_string())?;
    let Err(refused) = added else {
        return Ok(true);
    };
    // Another drain may have added it while this one waited for the lock.
    if has_beyond(session).await.map_err(|failure| failure.to_string())? {
        return Ok(true);
    }
    if reorders {
        return Err(format!(
            "the table forebay_position has no column beyond, which a queue that delivers out of order needs, and it \
             cannot be added: {refused}; let whoever may run: {ADD_BEYOND};"
        ));
    }
    Ok(false)
}

/// Whether the table of positions has the column `beyond`; those of earlier versions lack it.
async fn has_beyond(session: &mut Session) -> Result<bool, Failure> {
    let found = columns(session, "forebay_position").await?;
    Ok(found.is_some_and(|found| columns::find(&found, "beyond").is_some()))
}

/// The parts that begin with a prefix.
///
/// # Errors
///
/// What the server said.
pub(super) async fn parts_with_prefix(session: &mut Session, prefix: &str) -> Result<Vec<String>, Failure> {
    let prefix = quoted_text(prefix);
    let sql = format!("SELECT part FROM forebay_position WHERE LEFT(part, CHAR_LENGTH({prefix})) = {prefix}");
    session.rows(&sql).await
}

/// With what the names of the locks begin that sessions of this part hold; the number of the session is behind it, since a
/// successor holds its own while the old one is still there. Such locks are those of the whole server, and their names are short.
async fn session_lock(session: &mut Session, part: &str) -> Result<String, Failure> {
    let database: String = session.one("SELECT DATABASE()").await?;
    let mut hasher = SipHasher13::new();
    hasher.write(database.as_bytes());
    hasher.write_u8(0);
    hasher.write(part.as_bytes());
    Ok(format!("forebay-{:032x}-", hasher.finish128().as_u128()))
}

/// Ends the sessions of forebays that have held this part. One that was stopped in the middle of a transaction keeps the
/// row's lock until the server's patience with its silence ends.
async fn end_predecessors(session: &mut Session, part: &str, lock: &str) -> Result<(), String> {
    let sql = format!(
        "SELECT id FROM information_schema.processlist \
         WHERE id <> CONNECTION_ID() AND IS_USED_LOCK(CONCAT({}, id)) = id",
        quoted_text(lock)
    );
    let predecessors: Vec<u64> = session.rows(&sql).await.map_err(|failure| failure.to_string())?;
    if predecessors.is_empty() {
        return Err(format!(
            "another session, which is not forebay's or not of our account, has locked the row {part} of forebay_position"
        ));
    }
    for id in predecessors {
        match session.run(&format!("KILL {id}")).await {
            Err(failure) if failure.code() != Some(NO_SUCH_THREAD) => return Err(failure.to_string()),
            _ => {}
        }
    }
    Ok(())
}

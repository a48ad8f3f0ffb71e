//! One transaction: fence, rows, position and what is beyond it.

use super::super::encoding::{self, Bounds};
use super::super::mapping::{Plan, StatementPlan, TablePlan, Value};
use super::super::{Batch, Claim, Delivery, SinkError};
use super::session::{Failure, Session, row};
use super::takeover::Open;
use super::text::{self, Form, quoted_text};

/// Statements that are on their way at once.
const PIPELINED_MAX: usize = 256;
/// Bytes of one message with rows, unless a single row is larger or the server takes less.
const CHUNK_BYTES: usize = 1024 * 1024;
/// Bytes that a message has besides its text.
const MESSAGE_OVERHEAD_BYTES: usize = 64;

/// Errors that say that LOAD DATA LOCAL is not to be had: of an old server, of MySQL, of MariaDB.
const LOAD_REFUSED: [u16; 3] = [1148, 3948, 4166];
/// Warnings that speak of a value which was changed on its way. With them a statement of the user's is refused; of others,
/// such as of rows that IGNORE has left out, its author knows.
const CHANGED: [u16; 11] = [1048, 1264, 1265, 1292, 1300, 1364, 1365, 1366, 1406, 1411, 1441];

/// A warning that says nothing of a value: MySQL 8 would like `VALUES()` in `ON DUPLICATE KEY UPDATE` to be written otherwise, in a way
/// that MariaDB does not know.
const DEPRECATED: u16 = 1287;
/// Bytes of rows that are made of several records. A batch that has more is halved: rows that share a large value can be far more
/// than the bodies that they are made of.
const BATCH_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How the rows of a batch went.
enum Written {
    /// All of them as they are.
    Whole,
    /// LOAD DATA LOCAL is not to be had, now or ever, or has changed or left out some.
    NotLoaded { ever: bool },
}

/// Commits a batch, behind which the row has the epoch `next_epoch`.
///
/// # Errors
///
/// Of any kind; after anything but a transient one the session is outside of a transaction.
pub(super) async fn commit(
    open: &mut Open,
    plan: &Plan,
    part: &str,
    batch: Batch<'_>,
    next_epoch: i64,
) -> Result<(), SinkError> {
    let epochs = (open.epoch, next_epoch);
    let mut loads = open.loader.is_some() && !batch.deliveries.is_empty();
    loop {
        let written = match plan {
            Plan::Table(table) if loads => load(open, table, part, &batch, epochs).await,
            plan => {
                // What does not fit is found before anything is begun.
                let rows = encode(open, plan, batch.deliveries)?;
                fence(&mut open.session, epochs, part, &batch).await?;
                rows.write(open).await
            }
        };
        match written {
            Ok(Written::Whole) => return settle(open).await,
            // LOCAL makes the server leave out what it should refuse. INSERT tells what is wrong.
            Ok(Written::NotLoaded { ever }) => {
                roll_back(&mut open.session).await?;
                if ever {
                    open.loader = None;
                }
                loads = false;
            }
            Err(error @ SinkError::Permanent { .. }) => {
                roll_back(&mut open.session).await?;
                return Err(error);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Begins the transaction and moves the position. The server ends it if we fall silent within.
async fn fence(session: &mut Session, epochs: (i64, i64), part: &str, batch: &Batch<'_>) -> Result<(), SinkError> {
    let silence = session.silence_seconds;
    let update = fence_sql(epochs, part, batch)?;
    let mut sql = format!("SET wait_timeout = {silence}; START TRANSACTION; {update}");
    sql.push_str(&witnesses_sql(batch.witnesses));
    let statements = if batch.witnesses.is_empty() { 3 } else { 4 };
    let answers = session.answers(&sql, statements).await?;
    let moved = answers.get(2).map_or(0, |answer| answer.affected);
    let witnesses = match answers.into_iter().nth(3) {
        None => 0,
        Some(mut answer) => {
            let counted = answer.rows.pop().ok_or_else(|| Failure::Answer("no count".to_owned()))?;
            row::<usize>(counted)?
        }
    };
    if moved == 1 && witnesses == batch.witnesses.len() {
        return Ok(());
    }
    Err(fenced(session, epochs.0, part, batch).await)
}

fn fence_sql((epoch, next_epoch): (i64, i64), part: &str, batch: &Batch<'_>) -> Result<String, SinkError> {
    let narrow = |sequence: u64| {
        i64::try_from(sequence).map_err(|error| SinkError::Transient(format!("sequence {sequence}: {error}")))
    };
    let (after, through) = (narrow(batch.after)?, narrow(batch.through)?);
    let beyond = batch.beyond.map(|bytes| beyond_sql(bytes, next_epoch)).unwrap_or_default();
    Ok(format!(
        "UPDATE forebay_position SET position = {through}{beyond} \
         WHERE part = {} AND epoch = {epoch} AND position = {after}",
        quoted_text(part)
    ))
}

/// What is asked besides: how many of these rows are as far as they were. It is a query of its own, because one
/// within the UPDATE would lock the rows of other lanes.
fn witnesses_sql(witnesses: &[Claim]) -> String {
    if witnesses.is_empty() {
        return String::new();
    }
    let holds = |Claim { part, epoch }: &Claim| format!("part = {} AND epoch >= {epoch}", quoted_text(part));
    let all: Vec<_> = witnesses.iter().map(holds).collect();
    format!("; SELECT count(*) FROM forebay_position WHERE {}", all.join(" OR "))
}

/// What the fence sets besides, if the column is to hold these bytes, NULL for none.
fn beyond_sql(bytes: &[u8], next_epoch: i64) -> String {
    let mut sql = format!(", epoch = {next_epoch}, beyond = ");
    if bytes.is_empty() {
        sql.push_str("NULL");
    } else {
        text::hex(bytes, &mut sql);
    }
    sql
}

async fn fenced(session: &mut Session, epoch: i64, part: &str, batch: &Batch<'_>) -> SinkError {
    if let Err(error) = roll_back(session).await {
        return error;
    }
    let sql = format!("SELECT epoch, position FROM forebay_position WHERE part = {}", quoted_text(part));
    let found = match session.rows::<(i64, i64)>(&sql).await {
        Err(failure) => return SinkError::Transient(failure.to_string()),
        Ok(rows) => rows.first().map_or("the sink knows no such part".to_owned(), |(epoch, position)| {
            format!("the sink says epoch {epoch} at position {position}")
        }),
    };
    let lanes = if batch.witnesses.is_empty() { "" } else { ", or a lane of this queue was set back" };
    SinkError::Fenced(format!("{part}: we hold epoch {epoch} at position {}, {found}{lanes}", batch.after))
}

async fn settle(open: &mut Open) -> Result<(), SinkError> {
    let committed = open.session.run("COMMIT; SET wait_timeout = DEFAULT").await;
    // Whatever a COMMIT says, whether it went through is for the next take-over to find out.
    committed.map_err(|failure| SinkError::Transient(failure.to_string()))
}

async fn roll_back(session: &mut Session) -> Result<(), SinkError> {
    let rolled_back = session.run("ROLLBACK; SET wait_timeout = DEFAULT").await;
    rolled_back.map_err(|failure| SinkError::Transient(failure.to_string()))
}

/// What goes over the wire for a batch that does not go by LOAD DATA.
enum Rows {
    Nothing,
    /// INSERT statements of many rows each.
    Inserts(Vec<String>),
    /// Statements of the user's, several in a message, and how many they are.
    Statements(Vec<(String, usize)>),
}

/// What of a message may be text, so that the server takes it.
fn message_bytes_max(session: &Session) -> usize {
    session.packet_bytes_max.saturating_sub(MESSAGE_OVERHEAD_BYTES)
}

fn encode(open: &Open, plan: &Plan, deliveries: &[Delivery<'_>]) -> Result<Rows, SinkError> {
    let limit = message_bytes_max(&open.session);
    match plan {
        _ if deliveries.is_empty() => Ok(Rows::Nothing),
        Plan::Table(table) => encode_inserts(table, &open.forms, deliveries, limit),
        Plan::Statement(plan) => encode_statements(plan, &open.forms, deliveries, limit),
    }
}

fn encode_inserts(
    table: &TablePlan,
    forms: &[Form],
    deliveries: &[Delivery<'_>],
    limit: usize,
) -> Result<Rows, SinkError> {
    let head = format!("INSERT INTO {} ({}) VALUES ", table.quoted, table.quoted_columns());
    let tail = table.conflict_clause();
    let (mut inserts, mut bytes) = (Vec::new(), 0);
    let mut sql = head.clone();
    for delivery in deliveries {
        let rows = table.mapping.rows(delivery)?;
        for index in 0..rows.len() {
            let start = sql.len();
            encoding::refuse_large(bytes + start, BATCH_BYTES_MAX, deliveries)?;
            sql.push_str(if start == head.len() { "(" } else { ",(" });
            for (number, (value, form)) in rows.row(index)?.iter().zip(forms).enumerate() {
                if number > 0 {
                    sql.push(',');
                }
                text::literal(value, *form, &mut sql)
                    .map_err(|why| encoding::unfit(delivery, &table.columns[number].0, &why))?;
            }
            sql.push(')');
            fits(delivery, head.len() + sql.len() - start + tail.len(), limit)?;
            if start > head.len() && sql.len() + tail.len() > limit.min(CHUNK_BYTES) {
                // The comma stays behind.
                let row = sql.split_off(start).split_off(1);
                sql.push_str(&tail);
                bytes += sql.len();
                inserts.push(std::mem::replace(&mut sql, head.clone()));
                sql.push_str(&row);
            }
        }
    }
    // Records without a row in their array leave nothing to insert.
    if sql.len() > head.len() {
        sql.push_str(&tail);
        inserts.push(sql);
    }
    Ok(Rows::Inserts(inserts))
}

fn encode_statements(
    plan: &StatementPlan,
    forms: &[Form],
    deliveries: &[Delivery<'_>],
    limit: usize,
) -> Result<Rows, SinkError> {
    let (mut chunks, mut bytes): (Vec<(String, usize)>, usize) = (Vec::new(), 0);
    for delivery in deliveries {
        let rows = plan.mapping.rows(delivery)?;
        for index in 0..rows.len() {
            let sql = filled(plan, forms, delivery, &rows.row(index)?)?;
            fits(delivery, sql.len(), limit)?;
            bytes += sql.len();
            encoding::refuse_large(bytes, BATCH_BYTES_MAX, deliveries)?;
            match chunks.last_mut() {
                Some((chunk, count)) if *count < PIPELINED_MAX && chunk.len() + sql.len() <= limit.min(CHUNK_BYTES) => {
                    chunk.push_str(&sql);
                    *count += 1;
                }
                _ => chunks.push((sql, 1)),
            }
        }
    }
    Ok(Rows::Statements(chunks))
}

/// The statement with a row's values in their places, and behind it the question what the server has to say of it. The
/// line ends in between, so that a comment of the user's does too.
fn filled(
    plan: &StatementPlan,
    forms: &[Form],
    delivery: &Delivery<'_>,
    values: &[Value<'_>],
) -> Result<String, SinkError> {
    let mut sql = String::with_capacity(2 * plan.sql.len() + delivery.record.body.len());
    let mut copied = 0;
    for (number, (value, place)) in values.iter().zip(&plan.places).enumerate() {
        sql.push_str(&plan.sql[copied..*place]);
        let form = forms.get(number).copied().unwrap_or(Form::Literal);
        text::literal(value, form, &mut sql)
            .map_err(|why| encoding::unfit(delivery, &plan.parameters[number].0, &why))?;
        copied = place + "?".len();
    }
    sql.push_str(&plan.sql[copied..]);
    sql.push_str("\n;SHOW WARNINGS;");
    Ok(sql)
}

fn fits(delivery: &Delivery<'_>, bytes: usize, limit: usize) -> Result<(), SinkError> {
    if bytes <= limit {
        return Ok(());
    }
    let message = format!(
        "record {}: it takes {bytes} bytes of SQL, and the server's max_allowed_packet leaves {limit}",
        delivery.sequence
    );
    Err(SinkError::Permanent { message })
}

impl Rows {
    /// Writes the rows within the transaction that is open.
    async fn write(self, open: &mut Open) -> Result<Written, SinkError> {
        let session = &mut open.session;
        match self {
            Self::Nothing => {}
            Self::Inserts(inserts) => {
                for sql in inserts {
                    insert(session, &sql).await?;
                }
            }
            Self::Statements(chunks) => {
                for (sql, count) in chunks {
                    execute(session, &sql, count).await?;
                }
            }
        }
        Ok(Written::Whole)
    }
}

/// Begins the transaction, moves the position, and has the rows loaded, which are encoded meanwhile.
async fn load(
    open: &mut Open,
    table: &TablePlan,
    part: &str,
    batch: &Batch<'_>,
    epochs: (i64, i64),
) -> Result<Written, SinkError> {
    let Open { session, loader, .. } = open;
    let Some(by) = loader else { return Ok(Written::NotLoaded { ever: true }) };
    let bounds = Bounds { message_bytes_max: message_bytes_max(session), batch_bytes_max: BATCH_BYTES_MAX };
    let (encoding, chunks) = encoding::encoder(by, batch, bounds);
    let loading = async {
        fence(session, epochs, part, batch).await?;
        // The name is for the server's log alone: whatever it asks for, it gets these rows. With the character set `binary`
        // bytes are taken as they are, which in columns of UTF-8 is text.
        let sql = format!(
            "LOAD DATA LOCAL INFILE 'forebay' INTO TABLE {} CHARACTER SET binary ({})",
            table.quoted,
            table.quoted_columns()
        );
        session.offer(chunks)?;
        Ok::<_, SinkError>(session.answers(&sql, 1).await)
    };
    let (encoded, loaded) = encoding::beside(encoding, loading).await;
    let loaded = loaded?;
    match (encoded.transpose()?, loaded) {
        (Some(count), Ok(answers)) => Ok(match answers.first() {
            Some(answer) if answer.warnings == 0 && answer.affected == count => Written::Whole,
            _ => Written::NotLoaded { ever: false },
        }),
        (_, Err(failure)) if failure.code().is_some_and(|code| LOAD_REFUSED.contains(&code)) => {
            Ok(Written::NotLoaded { ever: true })
        }
        (_, Err(failure)) => Err(failure.into()),
        (None, Ok(_)) => Err(Failure::Answer("rows that it has not got".to_owned()).into()),
    }
}

async fn insert(session: &mut Session, sql: &str) -> Result<(), SinkError> {
    let answers = session.answers(sql, 1).await?;
    if answers.iter().all(|answer| answer.warnings == 0) {
        return Ok(());
    }
    let warnings = session.rows::<(String, u16, String)>("SHOW WARNINGS").await?;
    let counted: u64 = answers.iter().map(|answer| u64::from(answer.warnings)).sum();
    if counted == warnings.len() as u64 && warnings.iter().all(|(_, code, _)| *code == DEPRECATED) {
        return Ok(());
    }
    let said = warnings
        .iter()
        .find(|(_, code, _)| *code != DEPRECATED)
        .or(warnings.first())
        .map_or("the server has a warning and does not say it".to_owned(), warning);
    Err(SinkError::Permanent { message: said })
}

async fn execute(session: &mut Session, sql: &str, count: usize) -> Result<(), SinkError> {
    let answers = session.answers(sql, 2 * count).await?;
    for answer in answers.into_iter().skip(1).step_by(2).flat_map(|answer| answer.rows) {
        let said: (String, u16, String) = row(answer)?;
        if CHANGED.contains(&said.1) {
            return Err(SinkError::Permanent { message: warning(&said) });
        }
    }
    Ok(())
}

/// A warning in the form of an error.
fn warning((level, code, message): &(String, u16, String)) -> String {
    format!("{} {code}: {message}; forebay lets no value be changed on its way", level.to_uppercase())
}

//! One transaction: fence, rows, position and what is beyond it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::ops::Range;
use std::pin::{Pin, pin};

use bytes::{Bytes, BytesMut};
use futures_lite::future::{poll_once, zip};
use futures_sink::Sink as _;
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, CopyInSink, Error, SimpleQueryMessage, Statement};

use super::super::encoding::{self, Abandoned, Bounds, Chunks};
use super::super::mapping::{Mapping, Plan, StatementPlan};
use super::super::statement::literal;
use super::super::{Batch, Claim, Delivery, SinkError};
use super::session::{describe, is_permanent};
use super::takeover::{CopyWork, Open, Work};
use super::text::{self, Form};

/// Statements that are on their way at once.
const PIPELINED_MAX: usize = 256;

/// Commits a batch, behind which the row has the epoch `next_epoch`.
///
/// # Errors
///
/// Of any kind; after anything but a transient one the session is outside of a transaction.
pub(super) async fn commit(
    open: &Open,
    plan: &Plan,
    part: &str,
    batch: Batch<'_>,
    next_epoch: i64,
) -> Result<(), SinkError> {
    let fence = Fence { part, batch, epoch: open.epoch, next_epoch };
    let client = &open.session.client;
    match (&open.work, plan) {
        _ if batch.deliveries.is_empty() => {
            fence.move_position(client).await?;
            settle(client, (Ok(()), client.batch_execute("COMMIT").await)).await
        }
        (Work::Copy(work), _) => copy(client, work, &fence).await,
        (Work::Statement(statement, forms), Plan::Statement(plan)) => {
            // Parameters of statements are encoded before the transaction begins.
            let parameters = Parameters::encode(plan, forms, batch.deliveries)?;
            fence.move_position(client).await?;
            settle(client, execute_all(client, statement, &parameters).await).await
        }
        (Work::Statement(..), Plan::Table(_)) => {
            Err(SinkError::Transient("a table, for which a statement was prepared".to_owned()))
        }
    }
}

/// The rows of a batch by COPY, encoded on the way as far as they are not yet, while the server works on those that it has.
async fn copy(client: &Client, work: &CopyWork, fence: &Fence<'_>) -> Result<(), SinkError> {
    let sql = fence.sql()?;
    let (encoding, chunks) = encoding::encoder(&work.encoder, &fence.batch, Bounds::NONE);
    let copying = async {
        // COPY is announced together with the fence. That is safe: it writes nothing before its data are complete.
        let moved = async { client.simple_query(&sql).await.map(|messages| rows_of(&messages)) };
        let (moved, copy) = zip(moved, client.copy_in::<_, Bytes>(&work.statement)).await;
        if moved.map_err(|error| transient(&error))? != 1 {
            drop(copy);
            return Err(fence.failed(client).await);
        }
        let copy = copy.map_err(|error| transient(&error))?;
        let finish = zip(merge(client, work), client.batch_execute("COMMIT"));
        let (sent, (merged, commit)) = zip(send(chunks, copy), finish).await;
        match sent {
            Ok(sent) => settle(client, (sent.and(merged), commit)).await,
            // The server was told that the COPY fails, so the COMMIT behind it was a rollback.
            Err(Abandoned) => commit.map_err(|error| transient(&error)),
        }
    };
    let (encoded, copied) = encoding::beside(encoding, copying).await;
    // Whether a value was unfit matters once the server is known to have nothing of the batch.
    copied.and(encoded.transpose().map(drop))
}

/// The first statement of a transaction, which moves the position.
struct Fence<'a> {
    part: &'a str,
    batch: Batch<'a>,
    epoch: i64,
    next_epoch: i64,
}

impl Fence<'_> {
    /// Begins the transaction and moves the position.
    async fn move_position(&self, client: &Client) -> Result<(), SinkError> {
        let messages = client.simple_query(&self.sql()?).await.map_err(|error| transient(&error))?;
        if rows_of(&messages) == 1 { Ok(()) } else { Err(self.failed(client).await) }
    }

    /// BEGIN and fence as one message of the simple protocol: if either fails, neither has happened.
    fn sql(&self) -> Result<String, SinkError> {
        let narrow = |sequence: u64| {
            i64::try_from(sequence).map_err(|error| SinkError::Transient(format!("sequence {sequence}: {error}")))
        };
        let Self { batch, epoch, next_epoch, .. } = self;
        let (after, through) = (narrow(batch.after)?, narrow(batch.through)?);
        let beyond = batch.beyond.map(|bytes| beyond_sql(bytes, *next_epoch)).unwrap_or_default();
        let part = literal(self.part);
        Ok(format!(
            "BEGIN; UPDATE forebay_position SET position = {through}{beyond} \
             WHERE part = {part} AND epoch = {epoch} AND position = {after}{}",
            witnesses_sql(batch.witnesses)
        ))
    }

    /// What is there instead of what it asks for.
    async fn failed(&self, client: &Client) -> SinkError {
        if let Err(error) = client.batch_execute("ROLLBACK").await {
            return transient(&error);
        }
        let Self { part, batch, epoch, .. } = self;
        let found = client.query_opt("SELECT epoch, position FROM forebay_position WHERE part = $1", &[part]).await;
        let found =
            found.and_then(|row| row.map(|row| Ok((row.try_get::<_, i64>(0)?, row.try_get::<_, i64>(1)?))).transpose());
        let found = match found {
            Err(error) => return transient(&error),
            Ok(None) => "the sink knows no such part".to_owned(),
            Ok(Some((epoch, position))) => format!("the sink says epoch {epoch} at position {position}"),
        };
        let lanes = if batch.witnesses.is_empty() { "" } else { ", or a lane of this queue was set back" };
        SinkError::Fenced(format!("{part}: we hold epoch {epoch} at position {}, {found}{lanes}", batch.after))
    }
}

/// What the fence asks for besides: that the rows of these are as far as they were.
fn witnesses_sql(witnesses: &[Claim]) -> String {
    if witnesses.is_empty() {
        return String::new();
    }
    let holds = |Claim { part, epoch }: &Claim| format!("part = {} AND epoch >= {epoch}", literal(part));
    let all: Vec<_> = witnesses.iter().map(holds).collect();
    format!(" AND (SELECT count(*) FROM forebay_position WHERE {}) = {}", all.join(" OR "), all.len())
}

/// What the fence sets besides, if the column is to hold these bytes, NULL for none.
fn beyond_sql(bytes: &[u8], next_epoch: i64) -> String {
    if bytes.is_empty() {
        return format!(", epoch = {next_epoch}, beyond = NULL");
    }
    let mut sql = format!(", epoch = {next_epoch}, beyond = '\\x");
    sql.reserve(2 * bytes.len() + 1);
    sql.extend(text::hex_digits(bytes));
    sql.push('\'');
    sql
}

/// The rows that the last command of a simple query touched.
fn rows_of(messages: &[SimpleQueryMessage]) -> u64 {
    let touched = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
        _ => None,
    };
    messages.iter().rev().find_map(touched).unwrap_or(0)
}

fn transient(error: &Error) -> SinkError {
    SinkError::Transient(describe(error))
}

/// What rows and COMMIT came to. A failed row comes first: the COMMIT was then a rollback,
/// or was never sent.
async fn settle(client: &Client, (rows, commit): (Result<(), Error>, Result<(), Error>)) -> Result<(), SinkError> {
    match rows.and(commit) {
        Ok(()) => Ok(()),
        Err(error) if is_permanent(&error) => {
            let message = describe(&error);
            // Mostly there is nothing left to roll back, which is only a warning to PostgreSQL.
            client.batch_execute("ROLLBACK").await.map_err(|error| transient(&error))?;
            Err(SinkError::Permanent { message })
        }
        Err(error) => Err(transient(&error)),
    }
}

/// Puts the rows of a COPY into the user's table, if it went into a table of the session's.
async fn merge(client: &Client, work: &CopyWork) -> Result<(), Error> {
    match &work.merge {
        Some(merge) => client.execute(merge, &[]).await.map(|_| ()),
        None => Ok(()),
    }
}

/// Sends the rows of a COPY as they come, and hears what the server makes of them. The outer error is that they are not to be
/// kept; the COPY is then told to fail.
async fn send(mut chunks: Chunks, copy: CopyInSink<Bytes>) -> Result<Result<(), Error>, Abandoned> {
    let mut copy = pin!(copy);
    while let Some(chunk) = chunks.recv().await {
        let chunk = chunk?;
        let sent = async {
            poll_fn(|context| copy.as_mut().poll_ready(context)).await?;
            copy.as_mut().start_send(chunk)
        };
        if let Err(error) = sent.await {
            return Ok(Err(error));
        }
    }
    Ok(copy.finish().await.map(drop))
}

/// The parameters of a batch's statements, row after row.
struct Parameters {
    bytes: Vec<u8>,
    /// Where each value is in `bytes`; `None` for NULL.
    cells: Vec<Option<Range<usize>>>,
    width: usize,
    count: usize,
}

impl Parameters {
    fn encode(plan: &StatementPlan, forms: &[Form], deliveries: &[Delivery<'_>]) -> Result<Self, SinkError> {
        let mapping: &Mapping = &plan.mapping;
        let width = mapping.width();
        let mut encoded = Self { bytes: Vec::new(), cells: Vec::new(), width, count: 0 };
        for delivery in deliveries {
            let rows = mapping.rows(delivery)?;
            for index in 0..rows.len() {
                for (number, value) in rows.row(index)?.iter().enumerate() {
                    let cell = if index > 0 && !mapping.is_of_element(number) {
                        // What all rows of a record share is kept once: it may be as large as the body.
                        encoded.cells[encoded.cells.len() - width].clone()
                    } else {
                        let start = encoded.bytes.len();
                        let form = forms.get(number).copied().unwrap_or(Form::Plain);
                        let present = text::parameter(value, form, &mut encoded.bytes)
                            .map_err(|why| encoding::unfit(delivery, &plan.parameters[number].0, &why))?;
                        present.then_some(start..encoded.bytes.len())
                    };
                    encoded.cells.push(cell);
                }
                encoded.count += 1;
            }
        }
        Ok(encoded)
    }

    fn row(&self, row: usize) -> Vec<Text<'_>> {
        let cells = &self.cells[row * self.width..(row + 1) * self.width];
        cells.iter().map(|cell| Text(cell.clone().map(|range| &self.bytes[range]))).collect()
    }
}

/// A parameter in text format, for whatever type the server wants to make of it.
#[derive(Debug)]
struct Text<'a>(Option<&'a [u8]>);

impl ToSql for Text<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        Ok(match self.0 {
            None => IsNull::Yes,
            Some(bytes) => {
                out.extend_from_slice(bytes);
                IsNull::No
            }
        })
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

/// A statement whose answer is still to come.
type Sent<'a> = Pin<Box<dyn Future<Output = Result<u64, Error>> + Send + 'a>>;

/// Runs the statement for every row, and COMMIT behind the last. A future sends its message
/// when it is first polled; the answers come in the order of the messages, so only the
/// oldest is ever waited for.
async fn execute_all(
    client: &Client,
    statement: &Statement,
    parameters: &Parameters,
) -> (Result<(), Error>, Result<(), Error>) {
    let mut sent: VecDeque<Sent<'_>> = VecDeque::new();
    for row in 0..parameters.count {
        if sent.len() >= PIPELINED_MAX
            && let Some(oldest) = sent.pop_front()
            && let Err(error) = oldest.await
        {
            return (Err(error), Ok(()));
        }
        let mut next: Sent<'_> = Box::pin(client.execute_raw(statement, parameters.row(row)));
        match poll_once(&mut next).await {
            None => sent.push_back(next),
            Some(Ok(_)) => {}
            Some(Err(error)) => return (Err(error), Ok(())),
        }
    }
    let mut commit = pin!(client.batch_execute("COMMIT"));
    let early = poll_once(&mut commit).await;
    for statement in sent {
        if let Err(error) = statement.await {
            return (Err(error), Ok(()));
        }
    }
    let committed = match early {
        Some(committed) => committed,
        None => commit.await,
    };
    (Ok(()), committed)
}

//! SQLite, in a file of its own or one that the user already has.
//!
//! SQLite's calls block, so each transaction runs on a thread of the runtime's
//! blocking pool, to which the connection goes and from which it comes back. A
//! call that nobody waits for any more takes its connection with it; whether it
//! still commits is decided by the epoch, as with a foreign process.

mod check;
mod rows;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params};

use self::rows::{Rows, Shape};
use super::mapping::Plan;
use super::statement::Dialect;
use super::{Batch, Claim, Driver, Part, Sink, SinkError, SinkFuture, lane_numbers, progress_of};
use crate::config::{self, SinkKind, Takes, UrlRule};
use crate::progress::Progress;
use crate::record::Sequence;

pub(super) static DRIVER: Driver =
    Driver { kind: &KIND, open: |sink, part, data_dir| Box::new(Sqlite::new(sink, part, data_dir)) };

static KIND: SinkKind = SinkKind {
    name: "sqlite",
    title: "SQLite",
    url: UrlRule { prefixes: &["sqlite:"], example: "sqlite:orders.db", is_required: false },
    takes: Takes::Rows { name_bytes_max: usize::MAX, has_statement: true },
    options: &[],
};

/// How forebay's own table is created.
const POSITION_TABLE: &str = "CREATE TABLE IF NOT EXISTS forebay_position \
    (part TEXT PRIMARY KEY, epoch INTEGER NOT NULL, position INTEGER NOT NULL, beyond BLOB)";
/// The fence, of a batch that leaves `beyond` alone.
const FENCE: &str = "UPDATE forebay_position SET position = ?1 WHERE part = ?2 AND epoch = ?3 AND position = ?4";
/// The fence, of a batch that changes it.
const FENCE_AND_BEYOND: &str = "UPDATE forebay_position \
    SET position = ?1, epoch = ?6, beyond = nullif(?5, x'') \
    WHERE part = ?2 AND epoch = ?3 AND position = ?4";

/// The epoch of a row.
const EPOCH: &str = "SELECT epoch FROM forebay_position WHERE part = ?1";
/// Whether another row has reached an epoch.
const WITNESS: &str = "SELECT 1 FROM forebay_position WHERE part = ?1 AND epoch >= ?2";

/// A sink that writes to a SQLite file.
pub(super) struct Sqlite {
    file: File,
    plan: Result<Arc<Plan>, String>,
    part: Part,
    /// What [`Sink::take_over`] opened; nothing after a transient error.
    open: Option<Open>,
}

/// Where the database is and how long it may take.
struct File {
    path: PathBuf,
    commit_timeout: Duration,
}

/// A connection that holds the part.
struct Open {
    connection: Connection,
    epoch: i64,
    insert: String,
    shape: Shape,
}

impl Sqlite {
    /// A sink for the file that the configuration names, or one of its own in the data directory; nothing is opened yet.
    fn new(sink: &config::Sink, part: Part, data_dir: &Path) -> Self {
        let path = sink.url.strip_prefix("sqlite:").unwrap_or(&sink.url);
        let path = path.strip_prefix("//").unwrap_or(path);
        let path = if path.is_empty() { data_dir.join(part.file_name("db")) } else { PathBuf::from(path) };
        let plan = Plan::new(&sink.target, &part.queue, Dialect::Sqlite).map(Arc::new);
        let commit_timeout = Duration::from_millis(sink.commit_timeout_ms);
        Self { file: File { path, commit_timeout }, plan, part, open: None }
    }

    /// Positions alone, for a sink that cannot keep them.
    pub(super) fn of_positions(path: PathBuf, part: Part, commit_timeout: Duration) -> Self {
        let plan = Ok(Arc::new(Plan::of_positions()));
        Self { file: File { path, commit_timeout }, plan, part, open: None }
    }

    async fn open_and_take_over(&mut self) -> Result<Progress, SinkError> {
        self.open = None;
        let transient = self.file.transient();
        let plan = self.plan.clone().map_err(&transient)?;
        let (path, part, busy_timeout) = (self.file.path.clone(), self.part.clone(), self.file.busy_timeout());
        let work = move |abandoned: &AtomicBool| {
            let mut connection = connect(&path, busy_timeout)?;
            let (epoch, position, beyond) = match raise_epoch(&mut connection, &part, &plan, abandoned)? {
                Ok(taken) => taken,
                Err(refused) => return Ok(Err(refused)),
            };
            let shape = Shape::new(&connection, &plan)?;
            let insert = rows::row_sql(&plan);
            Ok::<_, rusqlite::Error>(Ok((Open { connection, epoch, insert, shape }, position, beyond)))
        };
        let taken = self.file.blocking(work).await?.map_err(|error| transient(describe(&error)))?;
        let (open, position, beyond) = taken?;
        self.part.hold(open.epoch);
        let progress = progress_of(position, beyond.as_deref()).map_err(|error| transient(error.to_string()))?;
        self.open = Some(open);
        Ok(progress)
    }

    async fn find_lanes(&mut self) -> Result<Vec<u32>, SinkError> {
        let transient = self.file.transient();
        // Whoever cannot say which lanes there are begins anew.
        let open = self.open.take().ok_or_else(|| transient("lanes before take_over".to_owned()))?;
        let prefix = self.part.lanes_prefix();
        let find = move |_: &AtomicBool| {
            let parts = parts_with_prefix(&open.connection, &prefix)?;
            Ok::<_, rusqlite::Error>((open, lane_numbers(&prefix, &parts)))
        };
        let (open, lanes) = self.file.blocking(find).await?.map_err(|error| transient(describe(&error)))?;
        let lanes = lanes.map_err(|error| transient(error.to_string()))?;
        self.open = Some(open);
        Ok(lanes)
    }

    async fn commit_batch(&mut self, batch: Batch<'_>) -> Result<(), SinkError> {
        let transient = self.file.transient();
        let plan = self.plan.clone().map_err(&transient)?;
        let open = self.open.take().ok_or_else(|| transient("commit before take_over".to_owned()))?;
        let rows = match Rows::new(&plan, &open.shape, batch.deliveries) {
            Ok(rows) => rows,
            Err(error) => {
                // Nothing was begun, so the connection is as good as before.
                self.open = Some(open);
                return Err(error);
            }
        };
        let next_epoch = self.part.epoch_behind(&batch, open.epoch);
        let step = Step::new(&batch, next_epoch).map_err(&transient)?;
        let part = self.part.id.clone();
        let work = move |_: &AtomicBool| {
            let mut open = open;
            let outcome = write(&mut open, &part, &step, &rows);
            (open, outcome)
        };
        let (mut open, outcome) = self.file.blocking(work).await?;
        match outcome {
            Err(SinkError::Transient(message)) => Err(transient(message)),
            settled => {
                if settled.is_ok() {
                    open.epoch = next_epoch;
                    self.part.hold(next_epoch);
                }
                self.open = Some(open);
                settled
            }
        }
    }
}

impl File {
    /// Half of the time for a transaction may go into waiting for another writer, so
    /// that SQLite itself says that the file is locked before we give up on the call.
    fn busy_timeout(&self) -> Duration {
        self.commit_timeout / 2
    }

    /// Runs `work` on a thread that may block. `work` gets a flag that says whether its
    /// caller has gone, and must then commit nothing that a successor doesn't see through.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&AtomicBool) -> T + Send + 'static,
    ) -> Result<T, SinkError> {
        struct Leaving(Arc<AtomicBool>);
        impl Drop for Leaving {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Release);
            }
        }
        let leaving = Leaving(Arc::new(AtomicBool::new(false)));
        let abandoned = Arc::clone(&leaving.0);
        let work = tokio::task::spawn_blocking(move || work(&abandoned));
        match tokio::time::timeout(self.commit_timeout, work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(SinkError::Transient(format!("{}: {error}", self.path.display()))),
            Err(_) => Err(SinkError::Transient(format!(
                "{}: no answer within {} ms",
                self.path.display(),
                self.commit_timeout.as_millis()
            ))),
        }
    }

    fn transient(&self) -> impl Fn(String) -> SinkError + use<> {
        let path = self.path.display().to_string();
        move |message| SinkError::Transient(format!("{path}: {message}"))
    }
}

impl Sink for Sqlite {
    fn take_over(&mut self) -> SinkFuture<'_, Progress> {
        Box::pin(self.open_and_take_over())
    }

    fn lanes(&mut self) -> SinkFuture<'_, Vec<u32>> {
        Box::pin(self.find_lanes())
    }

    fn claim(&self) -> Option<Claim> {
        self.open.as_ref().map(|open| Claim { part: self.part.id.as_str().into(), epoch: open.epoch })
    }

    fn commit<'a>(&'a mut self, batch: Batch<'a>) -> SinkFuture<'a, ()> {
        Box::pin(self.commit_batch(batch))
    }

    fn check(&mut self) -> SinkFuture<'_, Vec<String>> {
        Box::pin(async {
            let (path, plan, busy_timeout) = (self.file.path.clone(), self.plan.clone(), self.file.busy_timeout());
            self.file.blocking(move |_| check::problems(&path, &plan, busy_timeout)).await
        })
    }
}

/// Where a batch moves the position, as SQLite's integers, and what is beyond it then.
struct Step {
    after: i64,
    through: i64,
    beyond: Option<Vec<u8>>,
    /// The epoch behind it.
    next_epoch: i64,
    witnesses: Vec<Claim>,
}

impl Step {
    fn new(batch: &Batch<'_>, next_epoch: i64) -> Result<Self, String> {
        let narrow =
            |sequence: Sequence| i64::try_from(sequence).map_err(|error| format!("sequence {sequence}: {error}"));
        let (after, through) = (narrow(batch.after)?, narrow(batch.through)?);
        let (beyond, witnesses) = (batch.beyond.map(<[u8]>::to_vec), batch.witnesses.to_vec());
        Ok(Self { after, through, beyond, next_epoch, witnesses })
    }

    /// The first of the witnesses that is not as far as it was.
    fn set_back(&self, transaction: &Transaction<'_>) -> rusqlite::Result<Option<&Claim>> {
        for claim in &self.witnesses {
            let mut statement = transaction.prepare_cached(WITNESS)?;
            if !statement.exists(params![&*claim.part, claim.epoch])? {
                return Ok(Some(claim));
            }
        }
        Ok(None)
    }

    /// How many rows the fence has hit.
    fn fence(&self, transaction: &Transaction<'_>, part: &str, epoch: i64) -> rusqlite::Result<usize> {
        let Self { after, through, beyond, next_epoch, .. } = self;
        match beyond {
            None => transaction.prepare_cached(FENCE)?.execute(params![through, part, epoch, after]),
            Some(beyond) => transaction
                .prepare_cached(FENCE_AND_BEYOND)?
                .execute(params![through, part, epoch, after, beyond, next_epoch]),
        }
    }
}

fn connect(path: &Path, busy_timeout: Duration) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(busy_timeout)?;
    // What the file cannot have (a network drive has no WAL) stays as it was; FULL is durable either way.
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    // FULL, because what is committed here is forgotten in the journal: it must survive a power cut.
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON")?;
    Ok(connection)
}

/// Epoch, position and what is beyond it.
type Taken = (i64, i64, Option<Vec<u8>>);

/// Raises the epoch and reads the row, unless another process has taken over.
fn raise_epoch(
    connection: &mut Connection,
    part: &Part,
    plan: &Plan,
    abandoned: &AtomicBool,
) -> rusqlite::Result<Result<Taken, SinkError>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute(POSITION_TABLE, [])?;
    // Tables of earlier versions have no such column. Whoever may write the file may add it.
    if !transaction.column_exists(None, "forebay_position", "beyond")? {
        transaction.execute("ALTER TABLE forebay_position ADD COLUMN beyond BLOB", [])?;
    }
    if let Plan::Table(table) = plan
        && table.created
    {
        transaction.execute(&rows::created_table_sql(table), [])?;
    }
    transaction.execute(
        "INSERT INTO forebay_position (part, epoch, position) VALUES (?1, 0, 0) ON CONFLICT DO NOTHING",
        [&part.id],
    )?;
    let (found, position, beyond) = transaction.query_row(
        "SELECT epoch, position, beyond FROM forebay_position WHERE part = ?1",
        [&part.id],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    let first = match part.first() {
        None => found,
        Some(first) => transaction.query_row(EPOCH, [first], |row| row.get(0)).optional()?.unwrap_or_default(),
    };
    let epoch = match part.succeed(found, first) {
        Ok(epoch) => epoch,
        Err(refused) => return Ok(Err(refused)),
    };
    transaction.execute("UPDATE forebay_position SET epoch = ?1 WHERE part = ?2", params![epoch, part.id])?;
    // Had our caller given up and tried again, this older attempt would fence the newer one. It
    // cannot slip in behind this look: the newer one needs the lock that we hold.
    if abandoned.load(Ordering::Acquire) {
        return Err(rusqlite::Error::QueryReturnedNoRows);
    }
    transaction.commit()?;
    Ok(Ok((epoch, position, beyond)))
}

fn parts_with_prefix(connection: &Connection, prefix: &str) -> rusqlite::Result<Vec<String>> {
    let sql = "SELECT part FROM forebay_position WHERE substr(part, 1, length(?1)) = ?1";
    connection.prepare(sql)?.query_map([prefix], |row| row.get(0))?.collect()
}

/// Fence, rows, position and what is beyond it in one transaction.
fn write(open: &mut Open, part: &str, step: &Step, rows: &Rows) -> Result<(), SinkError> {
    let transient = |error: rusqlite::Error| SinkError::Transient(describe(&error));
    let transaction = open.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(transient)?;
    if step.fence(&transaction, part, open.epoch).map_err(transient)? != 1 {
        let found = fence_state(&transaction, part).map_err(transient)?;
        transaction.rollback().map_err(transient)?;
        let Step { after, .. } = step;
        return Err(SinkError::Fenced(format!("{part}: we hold epoch {} at position {after}, {found}", open.epoch)));
    }
    if let Some(Claim { part, epoch }) = step.set_back(&transaction).map_err(transient)? {
        let found = fence_state(&transaction, part).map_err(transient)?;
        transaction.rollback().map_err(transient)?;
        return Err(SinkError::Fenced(format!("{part} had come to epoch {epoch}, and now {found}")));
    }
    // What is wrong with the statement itself is not this record's fault; what goes wrong while it runs is.
    drop(transaction.prepare_cached(&open.insert).map_err(transient)?);
    match rows.insert(&transaction, &open.insert).and_then(|()| still_within(&transaction)) {
        Ok(()) => transaction.commit().map_err(|error| classify(&error)),
        Err(error) => {
            // A conflict clause may have rolled everything back already.
            if !transaction.is_autocommit() {
                transaction.rollback().map_err(transient)?;
            }
            Err(classify_row(&error))
        }
    }
}

/// Whether the transaction that began with our fence is still the one that we are in.
fn still_within(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    if transaction.is_autocommit() { Err(rusqlite::Error::InvalidQuery) } else { Ok(()) }
}

fn fence_state(transaction: &Transaction<'_>, part: &str) -> rusqlite::Result<String> {
    let found: Option<(i64, i64)> = transaction
        .query_row("SELECT epoch, position FROM forebay_position WHERE part = ?1", [part], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    Ok(found.map_or_else(
        || "the sink knows no such part".to_owned(),
        |(epoch, position)| format!("the sink says epoch {epoch} at position {position}"),
    ))
}

/// Like [`classify`], for a statement that has been prepared: a function of the user's statement that cannot
/// take this record's value says so with the general error code.
fn classify_row(error: &rusqlite::Error) -> SinkError {
    match error {
        rusqlite::Error::SqliteFailure(failure, _) if failure.extended_code == rusqlite::ffi::SQLITE_ERROR => {
            SinkError::Permanent { message: describe(error) }
        }
        _ => classify(error),
    }
}

fn classify(error: &rusqlite::Error) -> SinkError {
    let text = describe(error);
    match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig) => {
            SinkError::Permanent { message: text }
        }
        _ => SinkError::Transient(text),
    }
}

/// SQLite's own words with its result code.
fn describe(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(code, Some(words)) => format!("{words} ({code})"),
        rusqlite::Error::InvalidQuery => "the statement ended forebay's own transaction".to_owned(),
        other => other.to_string(),
    }
}

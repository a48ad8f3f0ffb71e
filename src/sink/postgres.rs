//! PostgreSQL: rows by COPY or by the user's statement, in as few round trips as is safe.
//!
//! The transaction is opened and fenced in one message, because a pipeline would
//! run the second command even if the first had been cancelled. Only once the fence
//! is known to have held are rows and COMMIT sent, together: if a row is refused, the
//! transaction has failed by then and PostgreSQL turns the COMMIT into a rollback.
//!
//! While a call runs the session belongs to its future. A future that is dropped, or
//! that ends in a transient error, takes the connection with it, so nothing half-open
//! is ever continued.

mod check;
mod columns;
mod session;
mod takeover;
mod text;
mod tls;
mod write;

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::types::Type;

use self::session::Session;
use self::takeover::{Open, Work};
use self::text::Lines;
use super::encoded::Encoder;
use super::encoding::TableEncoder;
use super::mapping::{Plan, TablePlan};
use super::statement::Dialect;
use super::{Batch, Claim, Driver, Part, Sink, SinkError, SinkFuture, lane_numbers, progress_of};
use crate::config::{self, SinkKind, Takes, UrlRule};
use crate::progress::Progress;

pub(super) static DRIVER: Driver = Driver { kind: &KIND, open: |sink, part, _| Box::new(Postgres::new(sink, part)) };

static KIND: SinkKind = SinkKind {
    name: "postgres",
    title: "PostgreSQL",
    url: UrlRule {
        prefixes: &["postgres://", "postgresql://"],
        example: "postgres://user@127.0.0.1/database",
        is_required: true,
    },
    takes: Takes::Rows { name_bytes_max: 63, has_statement: true },
    options: &[],
};

/// A sink that writes to a PostgreSQL server.
pub(super) struct Postgres {
    url: String,
    plan: Result<Plan, String>,
    part: Part,
    connect_timeout: Duration,
    commit_timeout: Duration,
    /// What [`Sink::take_over`] opened; nothing after a transient error.
    open: Option<Open>,
}

impl Postgres {
    /// A sink for the server that the configuration names; nothing is connected yet.
    fn new(sink: &config::Sink, part: Part) -> Self {
        Self {
            url: sink.url.clone(),
            plan: Plan::new(&sink.target, &part.queue, Dialect::Postgres),
            part,
            connect_timeout: Duration::from_millis(sink.connect_timeout_ms),
            commit_timeout: Duration::from_millis(sink.commit_timeout_ms),
            open: None,
        }
    }

    async fn connect(&self) -> Result<Session, SinkError> {
        Session::connect(&self.url, self.connect_timeout, self.commit_timeout).await.map_err(transient)
    }

    async fn connect_and_take_over(&mut self) -> Result<Progress, SinkError> {
        self.open = None;
        let session = self.connect().await?;
        let plan = self.plan.as_ref().map_err(|why| transient(why.clone()))?;
        // The wait for the lock has to end before the server's own timeout for a statement ends it.
        let patience = self.connect_timeout.min(self.commit_timeout / 2);
        let taking = takeover::take_over(session, plan, &self.part, patience);
        // First a stuck predecessor's lock is waited for, then it is ended and our own work goes on.
        let bound = self.connect_timeout + self.commit_timeout;
        let (open, row) = within(bound, taking).await??;
        let progress =
            progress_of(row.position, row.beyond.as_deref()).map_err(|error| transient(error.to_string()))?;
        self.open = Some(open);
        Ok(progress)
    }

    async fn find_lanes(&mut self) -> Result<Vec<u32>, SinkError> {
        // Whoever cannot say which lanes there are begins anew.
        let open = self.open.take().ok_or_else(|| transient("lanes before take_over".to_owned()))?;
        let prefix = self.part.lanes_prefix();
        let finding = takeover::parts_with_prefix(&open.session.client, &prefix);
        let parts =
            within(self.commit_timeout, finding).await?.map_err(|error| transient(session::describe(&error)))?;
        let lanes = lane_numbers(&prefix, &parts).map_err(|error| transient(error.to_string()))?;
        self.open = Some(open);
        Ok(lanes)
    }

    async fn commit_batch(&mut self, batch: Batch<'_>) -> Result<(), SinkError> {
        let plan = self.plan.as_ref().map_err(|why| transient(why.clone()))?;
        let mut open = self.open.take().ok_or_else(|| transient("commit before take_over".to_owned()))?;
        let next_epoch = self.part.epoch_behind(&batch, open.epoch);
        let committing = write::commit(&open, plan, &self.part.id, batch, next_epoch);
        let outcome = within(self.commit_timeout, committing).await?;
        if outcome.is_ok() {
            open.epoch = next_epoch;
            self.part.hold(next_epoch);
        }
        if !matches!(outcome, Err(SinkError::Transient(_))) {
            self.open = Some(open);
        }
        outcome
    }

    async fn problems(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Err(why) = &self.plan {
            problems.push(format!("The statement cannot be used: {why}."));
        }
        let looking = async {
            let session = self.connect().await?;
            within(self.commit_timeout, check::problems(&session, self.plan.as_ref().ok(), self.part.reorders)).await
        };
        match looking.await {
            Ok(Ok(found)) => problems.extend(found),
            Ok(Err(error)) => {
                problems.push(format!("The database cannot be looked at: {}.", session::describe(&error)));
            }
            Err(error) => problems.push(format!("The database cannot be reached: {error}.")),
        }
        problems
    }
}

impl Sink for Postgres {
    fn take_over(&mut self) -> SinkFuture<'_, Progress> {
        Box::pin(self.connect_and_take_over())
    }

    fn lanes(&mut self) -> SinkFuture<'_, Vec<u32>> {
        Box::pin(self.find_lanes())
    }

    fn claim(&self) -> Option<Claim> {
        self.open.as_ref().map(|open| Claim { part: self.part.id.as_str().into(), epoch: open.epoch })
    }

    fn encoder(&self) -> Option<Encoder> {
        match &self.open.as_ref()?.work {
            Work::Copy(copy) => Some(Arc::clone(&copy.encoder) as Encoder),
            Work::Statement(..) => None,
        }
    }

    fn commit<'a>(&'a mut self, batch: Batch<'a>) -> SinkFuture<'a, ()> {
        Box::pin(self.commit_batch(batch))
    }

    fn check(&mut self) -> SinkFuture<'_, Vec<String>> {
        Box::pin(async { Ok(self.problems().await) })
    }
}

/// What encodes rows for a table whose columns have these types.
#[must_use]
pub fn table_encoder(table: TablePlan, types: &[Type]) -> Encoder {
    Arc::new(TableEncoder::new(Arc::new(table), Lines::new(types)))
}

fn transient(message: String) -> SinkError {
    SinkError::Transient(message)
}

/// Bounds the time of `work`; what it holds is dropped when the time is over.
async fn within<T>(timeout: Duration, work: impl Future<Output = T>) -> Result<T, SinkError> {
    tokio::time::timeout(timeout, work)
        .await
        .map_err(|_| SinkError::Transient(format!("the database gave no answer within {} ms", timeout.as_millis())))
}

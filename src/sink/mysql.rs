//! MySQL and MariaDB: rows by LOAD DATA, by INSERT where that is not to be had, or by the user's statement.
//!
//! A batch takes three questions: the transaction is opened and fenced; only once the fence is known to have held are
//! rows sent; only once all of them are known to have gone in as they were is COMMIT. The server would otherwise go on
//! behind a fence that hit no row, and it only warns of some rows that it has changed or left out. The rows of LOAD DATA are
//! encoded meanwhile; what fits in no way is found on the way, and the transaction rolled back.
//!
//! While a call runs the session belongs to its future. A future that is dropped, or that ends in a transient error,
//! takes the connection with it, so nothing half-open is ever continued.

mod check;
mod columns;
mod session;
mod takeover;
mod text;
mod write;

use std::path::Path;
use std::time::Duration;

use self::session::{Failure, Session};
use self::takeover::Open;
use super::encoded::Encoder;
use super::mapping::Plan;
use super::statement::Dialect;
use super::{Batch, Claim, Driver, Part, Sink, SinkError, SinkFuture, lane_numbers, progress_of};
use crate::config::{self, OptionRule, OptionValues, SinkKind, Takes, UrlRule};
use crate::progress::Progress;

pub(super) static DRIVER: Driver = Driver { kind: &KIND, open: |sink, part, _| Box::new(Mysql::new(sink, part)) };

/// The option that names a file with the certificates of authorities.
const TLS_CA_FILE: &str = "tls_ca_file";

static KIND: SinkKind = SinkKind {
    name: "mysql",
    title: "MySQL and MariaDB",
    url: UrlRule { prefixes: &["mysql://"], example: "mysql://user@127.0.0.1/database", is_required: true },
    takes: Takes::Rows { name_bytes_max: 64, has_statement: true },
    options: &[OptionRule {
        key: TLS_CA_FILE,
        values: OptionValues::Text { example: "/etc/ssl/database-ca.pem", default: Some("") },
    }],
};

/// A sink that writes to a server of MySQL or MariaDB.
pub(super) struct Mysql {
    url: String,
    tls_ca_file: String,
    plan: Result<Plan, String>,
    part: Part,
    connect_timeout: Duration,
    commit_timeout: Duration,
    /// What [`Sink::take_over`] opened; nothing after a transient error.
    open: Option<Open>,
}

impl Mysql {
    /// A sink for the server that the configuration names; nothing is connected yet.
    fn new(sink: &config::Sink, part: Part) -> Self {
        Self {
            url: sink.url.clone(),
            tls_ca_file: sink.options.text(TLS_CA_FILE).to_owned(),
            plan: Plan::new(&sink.target, &part.queue, Dialect::Mysql),
            part,
            connect_timeout: Duration::from_millis(sink.connect_timeout_ms),
            commit_timeout: Duration::from_millis(sink.commit_timeout_ms),
            open: None,
        }
    }

    async fn connect(&self) -> Result<Session, SinkError> {
        let tls_ca_file = (!self.tls_ca_file.is_empty()).then_some(Path::new(&self.tls_ca_file));
        Session::connect(&self.url, tls_ca_file, self.connect_timeout, self.commit_timeout).await.map_err(transient)
    }

    async fn connect_and_take_over(&mut self) -> Result<Progress, SinkError> {
        self.open = None;
        let session = self.connect().await?;
        let plan = self.plan.as_ref().map_err(|why| transient(why.clone()))?;
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
        let mut open = self.open.take().ok_or_else(|| transient("lanes before take_over".to_owned()))?;
        let prefix = self.part.lanes_prefix();
        let finding = takeover::parts_with_prefix(&mut open.session, &prefix);
        let parts = within(self.commit_timeout, finding).await?.map_err(|error| transient(error.to_string()))?;
        let lanes = lane_numbers(&prefix, &parts).map_err(|error| transient(error.to_string()))?;
        self.open = Some(open);
        Ok(lanes)
    }

    async fn commit_batch(&mut self, batch: Batch<'_>) -> Result<(), SinkError> {
        let plan = self.plan.as_ref().map_err(|why| transient(why.clone()))?;
        let mut open = self.open.take().ok_or_else(|| transient("commit before take_over".to_owned()))?;
        let next_epoch = self.part.epoch_behind(&batch, open.epoch);
        let committing = write::commit(&mut open, plan, &self.part.id, batch, next_epoch);
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
            let mut session = self.connect().await?;
            let looking = check::problems(&mut session, self.plan.as_ref().ok(), self.part.reorders);
            within(self.commit_timeout, looking).await
        };
        match looking.await {
            Ok(Ok(found)) => problems.extend(found),
            Ok(Err(error)) => problems.push(format!("The database cannot be looked at: {error}.")),
            Err(error) => problems.push(format!("The database cannot be reached: {error}.")),
        }
        problems
    }
}

impl Sink for Mysql {
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
        self.open.as_ref()?.loader.clone().map(|loader| loader as Encoder)
    }

    fn commit<'a>(&'a mut self, batch: Batch<'a>) -> SinkFuture<'a, ()> {
        Box::pin(self.commit_batch(batch))
    }

    fn check(&mut self) -> SinkFuture<'_, Vec<String>> {
        Box::pin(async { Ok(self.problems().await) })
    }
}

fn transient(message: String) -> SinkError {
    SinkError::Transient(message)
}

impl From<Failure> for SinkError {
    fn from(failure: Failure) -> Self {
        if failure.is_permanent() {
            Self::Permanent { message: failure.to_string() }
        } else {
            Self::Transient(failure.to_string())
        }
    }
}

/// Bounds the time of `work`; what it holds is dropped when the time is over.
async fn within<T>(timeout: Duration, work: impl Future<Output = T>) -> Result<T, SinkError> {
    tokio::time::timeout(timeout, work)
        .await
        .map_err(|_| SinkError::Transient(format!("the database gave no answer within {} ms", timeout.as_millis())))
}

//! The shop's own work: a small query by key and an insertion, at a fixed slow rate.

use super::{TroubleError, client_error};
use crate::verify;
use std::io;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio_postgres::NoTls;

/// Between two round trips, of which each is one query and one insertion with its commit.
const PERIOD: Duration = Duration::from_millis(50);
const ROWS: i32 = 100_000;

/// When each was due after the probe's start, and how long it took from then.
pub type Trips = Vec<(Duration, Duration)>;

/// A client that works until it is stopped.
pub struct Probe {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<io::Result<Trips>>,
}

/// Makes its tables.
pub fn prepare(url: &str) -> Result<(), TroubleError> {
    let sql = format!(
        "CREATE TABLE stock (id integer PRIMARY KEY, quantity integer); CREATE TABLE sales (id integer, at timestamptz);
         INSERT INTO stock SELECT n, n % 100 FROM generate_series(0, {}) n; ANALYZE stock",
        ROWS - 1
    );
    Ok(verify::execute(url, &sql)?)
}

impl Probe {
    /// Starts it; `began` is what its trips are counted from.
    pub fn start(url: String, began: Instant) -> Result<Self, TroubleError> {
        let (stop, stopped) = oneshot::channel();
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
            runtime.block_on(ask(&url, began, stopped)).map_err(io::Error::other)
        };
        let thread = thread::Builder::new().name("probe".to_owned()).spawn(work).map_err(client_error("probe"))?;
        Ok(Self { stop, thread })
    }

    /// Ends it, and returns what it has seen.
    pub fn finish(self) -> Result<Trips, TroubleError> {
        let Self { stop, thread } = self;
        // It may have ended by itself, and says why then.
        let _ = stop.send(());
        let joined = thread.join().unwrap_or_else(|_| Err(io::Error::other("it panicked")));
        joined.map_err(client_error("probe"))
    }
}

async fn ask(url: &str, began: Instant, mut stopped: oneshot::Receiver<()>) -> Result<Trips, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // A failure of the connection reaches the client through its next call.
    tokio::spawn(connection);
    let look = client.prepare("SELECT quantity FROM stock WHERE id = $1").await?;
    let sell = client.prepare("INSERT INTO sales VALUES ($1, now())").await?;
    let mut trips = Trips::new();
    let mut id = 0;
    // One that is late does not put off those behind it: they are due all the same.
    let mut due = began.elapsed();
    while stopped.try_recv() == Err(oneshot::error::TryRecvError::Empty) {
        tokio::time::sleep_until((began + due).into()).await;
        client.query_opt(&look, &[&id]).await?;
        client.execute(&sell, &[&id]).await?;
        trips.push((due, began.elapsed().saturating_sub(due)));
        due += PERIOD;
        // Steps that are prime to their number come by all of the rows.
        id = (id + 7919) % ROWS;
    }
    Ok(trips)
}

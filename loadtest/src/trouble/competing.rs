//! What makes a database slow for a while.

use super::{TroubleError, client_error};
use serde::Serialize;
use std::fmt;
use std::io;
use std::thread::{self, JoinHandle};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_postgres::{Client, Error, NoTls};

/// Sessions that compute, twice as many as the smallest server has cores.
const SESSIONS: usize = 4;
/// Sorts more than fits into the memory that a session has for it.
const HEAVY: &str = "SELECT count(*) FROM (SELECT md5(n::text) m FROM generate_series(1, 300000) n ORDER BY m) s";
/// Holds the campaign's row for a tenth of a second, as a job does that asks somebody else meanwhile, and leaves it to
/// whoever waits.
const HOLDING: &str = "BEGIN; SELECT FROM campaign FOR UPDATE; SELECT pg_sleep(0.1); COMMIT; SELECT pg_sleep(0.002)";

/// A kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Sessions that sort on all cores.
    Load,
    /// A job that holds the campaign's row, which each of forebay's transactions updates, again and again.
    Lock,
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Load => "load",
            Self::Lock => "lock",
        })
    }
}

/// Trouble until it is stopped.
pub struct Competing {
    stop: watch::Sender<bool>,
    thread: JoinHandle<io::Result<()>>,
}

impl Competing {
    /// Begins.
    pub fn start(cause: Cause, url: String) -> Result<Self, TroubleError> {
        let (stop, stopped) = watch::channel(false);
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
            let done = runtime.block_on(async {
                match cause {
                    Cause::Load => load(&url, stopped).await,
                    Cause::Lock => again_and_again(connect(&url).await?, HOLDING, stopped).await,
                }
            });
            done.map_err(io::Error::other)
        };
        let thread = thread::Builder::new().name("competing".to_owned()).spawn(work);
        Ok(Self { stop, thread: thread.map_err(client_error("competing load"))? })
    }

    /// Ends it, and waits until it has.
    pub fn finish(self) -> Result<(), TroubleError> {
        let Self { stop, thread } = self;
        // It may have ended by itself, and says why then.
        let _ = stop.send(true);
        let joined = thread.join().unwrap_or_else(|_| Err(io::Error::other("it panicked")));
        joined.map_err(client_error("competing load"))
    }
}

async fn connect(url: &str) -> Result<Client, Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // A failure of the connection reaches the client through its next call.
    tokio::spawn(connection);
    Ok(client)
}

async fn load(url: &str, stopped: watch::Receiver<bool>) -> Result<(), Error> {
    let mut sessions = JoinSet::new();
    for _ in 0..SESSIONS {
        sessions.spawn(again_and_again(connect(url).await?, HEAVY, stopped.clone()));
    }
    while let Some(session) = sessions.join_next().await {
        // A session that panicked has been reported by itself.
        session.unwrap_or(Ok(()))?;
    }
    Ok(())
}

async fn again_and_again(client: Client, sql: &str, mut stopped: watch::Receiver<bool>) -> Result<(), Error> {
    loop {
        tokio::select! {
            done = client.batch_execute(sql) => done?,
            // Whoever started us may also be gone.
            _ = stopped.changed() => return client.cancel_token().cancel_query(NoTls).await,
        }
    }
}

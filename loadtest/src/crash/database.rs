//! The database behind the server, which is never killed: its tables, and what they hold in the end.

use super::account::{Account, Row};
use super::request::QUEUES;
use super::{CrashError, SinkKind};
use crate::peer::{RunningPeer, StartOptions, start_postgres};
use crate::verify::{VerifyError, open_sqlite, with_postgres};
use crate::wire::postgres_url;
use rusqlite::Connection;
use std::path::{Path, PathBuf};

/// Rows of PostgreSQL fetched at a time.
const PORTAL_ROWS: i32 = 20_000;
/// What a queue's table has besides its first column. Nothing in it would keep a duplicate out.
const COLUMNS: &str = "id text, ticket text, sequence bigint, body text";

/// Where the queues' records go, each queue into a table of its name.
pub enum Database {
    /// A file for each queue in this directory.
    Sqlite(PathBuf),
    /// A server of our own.
    Postgres {
        /// The server, killed when it is dropped.
        peer: RunningPeer,
        /// How to reach it.
        url: String,
    },
}

impl Database {
    /// Starts the server if there is one, and makes the tables. Their first column numbers the rows as they arrive.
    pub fn start(kind: SinkKind, directory: &Path, options: &StartOptions) -> Result<Self, CrashError> {
        match kind {
            SinkKind::Sqlite => {
                for queue in QUEUES {
                    let create = || {
                        let connection = Connection::open(sqlite_path(directory, queue))?;
                        connection
                            .execute_batch(&format!("CREATE TABLE {queue} (arrival INTEGER PRIMARY KEY, {COLUMNS})"))
                    };
                    create().map_err(VerifyError::from)?;
                }
                Ok(Self::Sqlite(directory.to_path_buf()))
            }
            SinkKind::Postgres => {
                let (peer, port) = start_postgres(options)?;
                let url = postgres_url(port);
                // As a peer of a comparison the server has made a table of orders of its own.
                let create = |queue| {
                    format!(
                        "DROP TABLE IF EXISTS {queue};
                         CREATE TABLE {queue} (arrival bigint GENERATED ALWAYS AS IDENTITY, {COLUMNS});"
                    )
                };
                let sql: String = QUEUES.map(create).concat();
                with_postgres(&url, async |client| Ok(client.batch_execute(&sql).await?))?;
                Ok(Self::Postgres { peer, url })
            }
        }
    }

    /// The sink of a queue, for the configuration.
    pub fn sink_toml(&self, queue: &str) -> String {
        let (kind, url) = match self {
            Self::Sqlite(directory) => ("sqlite", sqlite_path(directory, queue).display().to_string()),
            Self::Postgres { url, .. } => ("postgres", url.clone()),
        };
        format!(
            "type = \"{kind}\"\nurl = {url:?}\ntable = \"{queue}\"\n\
             columns = {{ id = \"/id\", ticket = \"$ticket\", sequence = \"$sequence\", body = \"$body\" }}\n"
        )
    }

    /// Gives all rows to an account, each queue's in the order in which they arrived.
    pub fn read(&self, account: &mut Account) -> Result<(), VerifyError> {
        for (number, queue) in QUEUES.into_iter().enumerate() {
            let sql = format!(
                "SELECT coalesce(id, ''), coalesce(ticket, ''), coalesce(sequence, 0), coalesce(body, '')
                 FROM {queue} ORDER BY arrival"
            );
            match self {
                Self::Sqlite(directory) => read_sqlite(&sqlite_path(directory, queue), &sql, number, account)?,
                Self::Postgres { url, .. } => read_postgres(url, &sql, number, account)?,
            }
        }
        Ok(())
    }

    /// Ends the server and leaves its files; says where, if they are not in the directory that they were given.
    pub fn keep(self) -> Option<PathBuf> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres { peer, .. } => Some(peer.kill().0.keep()),
        }
    }
}

fn sqlite_path(directory: &Path, queue: &str) -> PathBuf {
    directory.join(format!("{queue}.db"))
}

fn read_sqlite(path: &Path, sql: &str, queue: usize, account: &mut Account) -> Result<(), VerifyError> {
    let connection = open_sqlite(path)?;
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let row = Row { id: row.get(0)?, ticket: row.get(1)?, sequence: row.get(2)?, body: row.get(3)? };
        account.row(queue, &row);
    }
    Ok(())
}

fn read_postgres(url: &str, sql: &str, queue: usize, account: &mut Account) -> Result<(), VerifyError> {
    with_postgres(url, async |client| {
        let transaction = client.transaction().await?;
        let portal = transaction.bind(sql, &[]).await?;
        loop {
            let rows = transaction.query_portal(&portal, PORTAL_ROWS).await?;
            if rows.is_empty() {
                return Ok(());
            }
            for row in rows {
                let row = Row {
                    id: row.try_get(0)?,
                    ticket: row.try_get(1)?,
                    sequence: row.try_get(2)?,
                    body: row.try_get(3)?,
                };
                account.row(queue, &row);
            }
        }
    })
}

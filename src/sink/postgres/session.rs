//! A connection to PostgreSQL, set up so that whatever it leaves behind ends by itself.

use std::error::Error as _;
use std::fmt::Write as _;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, Error, NoTls};

/// What our connections are called in `pg_stat_activity`; a successor knows a stuck one by it.
pub(super) const APPLICATION_NAME: &str = "forebay";

/// An open connection; dropping it closes the socket at once, whatever is under way.
pub(super) struct Session {
    pub(super) client: Client,
    task: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        // The task would otherwise go on until every answer has come, and keep a transaction open.
        self.task.abort();
    }
}

impl Session {
    /// Connects; `commit_timeout` bounds each statement and each silence within a transaction.
    ///
    /// # Errors
    ///
    /// Why there is no connection, in a sentence without the URL, which may hold a password.
    pub(super) async fn connect(url: &str, timeout: Duration, commit_timeout: Duration) -> Result<Self, String> {
        let mut config = config(url)?;
        config.application_name(APPLICATION_NAME).connect_timeout(timeout).ssl_mode(SslMode::Disable);
        let connecting = async {
            let (client, connection) = config.connect(NoTls).await?;
            let task = tokio::spawn(async move {
                // Whoever waits for an answer on this connection gets the error too.
                let _ = connection.await;
            });
            let session = Self { client, task };
            session.client.batch_execute(&settings(commit_timeout)).await?;
            Ok(session)
        };
        match tokio::time::timeout(timeout, connecting).await {
            Ok(connected) => connected.map_err(|error: Error| format!("{}: {}", addresses(&config), describe(&error))),
            Err(_) => Err(format!("{}: no connection within {} ms", addresses(&config), timeout.as_millis())),
        }
    }
}

/// Where the server should be, without what else the URL says.
fn addresses(config: &Config) -> String {
    let ports = config.get_ports();
    let address = |(number, host): (usize, &Host)| {
        // One port may stand for all hosts.
        let port = ports.get(number).or(ports.first()).copied().unwrap_or(5432);
        match host {
            Host::Tcp(name) => format!("{name}:{port}"),
            Host::Unix(path) => format!("{} (port {port})", path.display()),
        }
    };
    config.get_hosts().iter().enumerate().map(address).collect::<Vec<_>>().join(", ")
}

fn config(url: &str) -> Result<Config, String> {
    const NO_TLS: &str = "the URL asks for TLS with sslmode, which is not supported yet; \
        reach the server over a unix socket, a private network or a tunnel, with sslmode=disable";
    match url.parse::<Config>() {
        Ok(config) if config.get_ssl_mode() == SslMode::Require => Err(NO_TLS.to_owned()),
        Ok(config) => Ok(config),
        Err(_) if url.contains("sslmode=verify-") => Err(NO_TLS.to_owned()),
        Err(error) => Err(format!("the URL is not one of PostgreSQL: {}", describe(&error))),
    }
}

/// A process that was stopped in the middle of a transaction must not hold its locks for
/// ever, so the server ends the transaction. Commits wait for the disk even where the database's default
/// is not to, because the journal forgets what we call delivered. The last line keeps
/// string literals as our tokenizer reads them.
fn settings(commit_timeout: Duration) -> String {
    let ms = commit_timeout.as_millis().clamp(1, 0x7fff_ffff);
    format!(
        "SET statement_timeout = {ms}; SET lock_timeout = {ms}; SET idle_in_transaction_session_timeout = {ms};
         SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
         SET standard_conforming_strings = on"
    )
}

/// Whether the database refuses the data rather than the moment, by its SQLSTATE.
pub(super) fn is_permanent(error: &Error) -> bool {
    // Data exceptions, constraints, a subquery with several rows, a view's check option, a limit that this
    // record exceeds (a row too large for an index, JSON too deep), and what a trigger of the user's raises.
    const CLASSES: [&str; 5] = ["21", "22", "23", "44", "54"];
    error.code().is_some_and(|code| *code == SqlState::RAISE_EXCEPTION || CLASSES.contains(&&code.code()[..2]))
}

/// The database's own words, or what kept us from hearing them.
pub(super) fn describe(error: &Error) -> String {
    let Some(database) = error.as_db_error() else {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            let _ = write!(text, ": {error}");
            source = error.source();
        }
        return text;
    };
    let mut text = format!("{}: {} (SQLSTATE {})", database.severity(), database.message(), database.code().code());
    let named = [
        ("detail", database.detail()),
        ("hint", database.hint()),
        ("table", database.table()),
        ("column", database.column()),
        ("constraint", database.constraint()),
        ("where", database.where_()),
    ];
    for (name, value) in named {
        if let Some(value) = value {
            let _ = write!(text, "; {name}: {value}");
        }
    }
    text
}

/// Whether a lock was not to be had in time.
pub(super) fn is_lock_timeout(error: &Error) -> bool {
    error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_is_refused_in_words_and_a_password_never_shows() {
        for mode in ["require", "verify-ca", "verify-full"] {
            let error = config(&format!("postgres://u:secret@h/d?sslmode={mode}")).unwrap_err();
            assert!(error.contains("TLS") && !error.contains("secret"), "{error}");
        }
        for url in ["postgres://u:secret@h:port/d", "postgres://u:secret@h/d?nonsense=1", "secret"] {
            let error = config(url).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(config("postgres://u:secret@h/d?sslmode=disable").is_ok());
        assert!(config("postgres://u:secret@h/d").is_ok());
    }
}

//! A connection to PostgreSQL, set up so that whatever it leaves behind ends by itself.

use std::error::Error as _;
use std::fmt::Write as _;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Error, NoTls, Socket};

use super::tls::{self, Tls};

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
        let (mut config, tls) = config(url)?;
        let ssl_mode = ssl_mode(&config, &tls);
        config.application_name(APPLICATION_NAME).connect_timeout(timeout).ssl_mode(ssl_mode);
        let connecting = async {
            let (client, task) = if config.get_ssl_mode() == SslMode::Disable {
                open(&config, NoTls).await?
            } else {
                // Certificates are files.
                let reading = tokio::task::spawn_blocking(move || tls.connector());
                open(&config, reading.await.map_err(|error| error.to_string())??).await?
            };
            let session = Self { client, task };
            session.client.batch_execute(&settings(commit_timeout)).await.map_err(|error| describe(&error))?;
            Ok(session)
        };
        match tokio::time::timeout(timeout, connecting).await {
            Ok(connected) => connected.map_err(|why: String| format!("{}: {why}", addresses(&config))),
            Err(_) => Err(format!("{}: no connection within {} ms", addresses(&config), timeout.as_millis())),
        }
    }
}

/// Connects and drives the connection in a task.
async fn open<T>(config: &Config, tls: T) -> Result<(Client, JoinHandle<()>), String>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let connected = config.connect(tls).await;
    let (client, connection) = connected.map_err(|error| format!("{}{}", describe(&error), tls::advice(&error)))?;
    let task = tokio::spawn(async move {
        // Whoever waits for an answer on this connection gets the error too.
        let _ = connection.await;
    });
    Ok((client, task))
}

/// A unix socket leads to this machine, and PostgreSQL speaks no TLS over it.
fn ssl_mode(config: &Config, tls: &Tls) -> SslMode {
    let is_unix = |host: &Host| matches!(host, Host::Unix(_));
    let hosts = config.get_hosts();
    if !hosts.is_empty() && hosts.iter().all(is_unix) { SslMode::Disable } else { tls.ssl_mode() }
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

fn config(url: &str) -> Result<(Config, Tls), String> {
    let (url, tls) = tls::split(url)?;
    let config: Config =
        url.parse().map_err(|error| format!("the URL is not one of PostgreSQL: {}", describe(&error)))?;
    // The first @ ends the password, and what is behind it would be shown as the host.
    if config.get_hosts().iter().any(|host| matches!(host, Host::Tcp(name) if name.contains('@'))) {
        return Err("the URL has more than one @; write %40 for one that is part of the password".to_owned());
    }
    Ok((config, tls))
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
    fn a_password_never_shows_and_a_unix_socket_has_no_tls() {
        for url in [
            "postgres://u:a@secret@h/d",
            "postgres://u:secret@h:port/d",
            "postgres://u:secret@h/d?nonsense=1",
            "secret",
        ] {
            let error = config(url).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
        for (url, mode) in [
            ("postgres://u:secret@h/d", SslMode::Prefer),
            ("postgres://u:secret@h/d?sslmode=disable", SslMode::Disable),
            ("postgres://u:secret@h/d?sslmode=verify-ca", SslMode::Require),
            ("postgres://u@%2Frun%2Fpostgresql/d?sslmode=verify-full", SslMode::Disable),
        ] {
            let (config, tls) = config(url).unwrap();
            assert_eq!(ssl_mode(&config, &tls), mode, "{url}");
        }
    }
}

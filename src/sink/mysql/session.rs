//! A connection to MySQL or MariaDB, set up so that whatever it leaves behind ends by itself and no value is bent.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures_lite::{StreamExt as _, stream};
use mysql_async::prelude::{FromRow, FromValue, Queryable as _};
use mysql_async::{Conn, DriverError, Error, Opts, OptsBuilder, Row, UrlError};

use super::super::encoding::Chunks;

/// What our connections say of themselves in `performance_schema.session_connect_attrs`.
const PROGRAM_NAME: &str = "forebay";
/// The longest that the server lets a value of its timeouts be, in seconds, for all of them.
const SECONDS_MAX: u64 = 31_536_000;

/// What a server says when a lock was not to be had in time.
const LOCK_WAIT_TIMEOUT: u16 = 1205;

/// Classes of SQLSTATE that speak of the data: data exceptions, constraints, a view's check option, and what a trigger or
/// function of the user's raises with SIGNAL.
const PERMANENT_CLASSES: [&str; 4] = ["22", "23", "44", "45"];
/// Numbers of errors that speak of the data and have a SQLSTATE that does not say so, or not in every version. In order:
/// a row too large; a subquery with several rows; a value out of range, cut, wrong, or missing; a wrong number; a string
/// that is none of its character set; a value too long, none of its function's, outside of all partitions or of this
/// one; SIGNAL; JSON that is none, twice; a check constraint, of MySQL and of MariaDB.
const PERMANENT_CODES: [u16; 19] =
    [1118, 1242, 1264, 1265, 1292, 1364, 1366, 1367, 1300, 1406, 1411, 1526, 1748, 1644, 3140, 3141, 3144, 3819, 4025];

/// Why the server did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The server's own words, or what kept us from hearing them.
    #[error("{}", describe(.0))]
    Driver(#[from] Error),
    /// An answer of another form.
    #[error("the server answered something else than was asked for: {0}")]
    Answer(String),
}

impl Failure {
    /// The server's number of the error, if it is one of the server's.
    pub(super) fn code(&self) -> Option<u16> {
        match self {
            Self::Driver(Error::Server(error)) => Some(error.code),
            _ => None,
        }
    }

    /// Whether the database refuses the data rather than the moment.
    pub(super) fn is_permanent(&self) -> bool {
        match self {
            Self::Driver(Error::Server(error)) => is_permanent(error.code, &error.state),
            _ => false,
        }
    }

    /// Whether a lock was not to be had in time.
    pub(super) fn is_lock_timeout(&self) -> bool {
        self.code() == Some(LOCK_WAIT_TIMEOUT)
    }
}

/// Whether an error of this number and SQLSTATE is about the data.
fn is_permanent(code: u16, state: &str) -> bool {
    PERMANENT_CODES.contains(&code) || PERMANENT_CLASSES.iter().any(|class| state.starts_with(class))
}

/// The server's own words. What the driver says of an URL may quote it, so that is said in other words.
fn describe(error: &Error) -> String {
    match error {
        Error::Server(error) => error.to_string(),
        Error::Url(error) => url_problem(error),
        Error::Driver(DriverError::PacketTooLarge) => "it needs a larger max_allowed_packet".to_owned(),
        other => other.to_string(),
    }
}

/// An open connection; dropping it closes the socket at once, whatever is under way.
pub(super) struct Session {
    /// Nothing only while it is dropped.
    connection: Option<Conn>,
    pub(super) is_mariadb: bool,
    /// Bytes of the longest message that the server takes.
    pub(super) packet_bytes_max: usize,
    /// Whether the server takes LOAD DATA LOCAL, as far as its settings say.
    pub(super) loads_local: bool,
    /// Seconds after which the server ends a session that is silent within a transaction.
    pub(super) silence_seconds: u64,
}

impl Drop for Session {
    fn drop(&mut self) {
        // The driver would wait for the answer of what is under way, in a task of the runtime, and then say good-bye. Where
        // there is no runtime it closes the socket. If no thread is to be had, it does the former.
        if let Some(connection) = self.connection.take() {
            let _ = std::thread::Builder::new().name("mysql-close".to_owned()).spawn(move || drop(connection));
        }
    }
}

/// What a statement answered.
#[derive(Debug)]
pub(super) struct Answer {
    /// Its rows, if it has some.
    pub(super) rows: Vec<Row>,
    /// Rows that it found or wrote; only of a statement that has no rows.
    pub(super) affected: u64,
    /// Warnings and notes; only of a statement that has no rows.
    pub(super) warnings: u16,
}

impl Session {
    /// Connects; `commit_timeout` bounds each wait for a lock and each silence within a transaction.
    ///
    /// # Errors
    ///
    /// Why there is no connection, in a sentence without the URL, which may hold a password.
    pub(super) async fn connect(
        url: &str,
        tls_ca_file: Option<&Path>,
        timeout: Duration,
        commit_timeout: Duration,
    ) -> Result<Self, String> {
        let options = options(url, tls_ca_file)?;
        let address = address(&options);
        let connecting = async {
            let mut session = Self {
                connection: Some(Conn::new(options).await?),
                is_mariadb: false,
                packet_bytes_max: 0,
                loads_local: false,
                silence_seconds: seconds(commit_timeout),
            };
            session.set_up(commit_timeout).await?;
            Ok::<_, Failure>(session)
        };
        match tokio::time::timeout(timeout, connecting).await {
            Ok(connected) => connected.map_err(|failure| format!("{address}: {failure}")),
            Err(_) => Err(format!("{address}: no connection within {} ms", timeout.as_millis())),
        }
    }

    async fn set_up(&mut self, commit_timeout: Duration) -> Result<(), Failure> {
        let asked = "SELECT version(), @@max_allowed_packet, @@local_infile";
        let (version, packet_bytes_max, loads_local): (String, usize, bool) = self.one(asked).await?;
        self.is_mariadb = version.contains("MariaDB");
        // The URL may say less than the server.
        let own_max = self.connection()?.opts().max_allowed_packet().unwrap_or(packet_bytes_max);
        self.packet_bytes_max = packet_bytes_max.min(own_max);
        self.loads_local = loads_local;
        self.run(&settings(commit_timeout)).await?;
        if self.is_mariadb {
            // Nobody hears what a statement says that a dropped call has left running. MySQL bounds only queries.
            self.run(&format!("SET max_statement_time = {}", self.silence_seconds)).await?;
        }
        Ok(())
    }

    pub(super) fn connection(&mut self) -> Result<&mut Conn, Failure> {
        self.connection.as_mut().ok_or(Failure::Driver(Error::Driver(DriverError::ConnectionClosed)))
    }

    /// Runs statements whose answers are of no interest. The first that fails is the last.
    ///
    /// # Errors
    ///
    /// What the server said.
    pub(super) async fn run(&mut self, sql: &str) -> Result<(), Failure> {
        Ok(self.connection()?.query_drop(sql).await?)
    }

    /// Runs as many statements as the text has, and gives the answer of each. The first that fails is the last.
    ///
    /// # Errors
    ///
    /// What the server said.
    pub(super) async fn answers(&mut self, sql: &str, statements: usize) -> Result<Vec<Answer>, Failure> {
        let mut answers = Vec::with_capacity(statements);
        let mut result = self.connection()?.query_iter(sql).await?;
        for _ in 0..statements {
            // These are of the statement whose rows come next, which this call passes over.
            let (affected, warnings) = (result.affected_rows(), result.warnings());
            let rows = result.collect::<Row>().await?;
            answers.push(Answer { rows, affected, warnings });
        }
        result.drop_result().await?;
        Ok(answers)
    }

    /// The rows of a query.
    ///
    /// # Errors
    ///
    /// What the server said, or that the rows are others.
    pub(super) async fn rows<T: FromRow>(&mut self, sql: &str) -> Result<Vec<T>, Failure> {
        let rows: Vec<Row> = self.connection()?.query(sql).await?;
        rows.into_iter().map(row).collect()
    }

    /// The only row of a query.
    ///
    /// # Errors
    ///
    /// What the server said, or that the row is another.
    pub(super) async fn one<T: FromRow>(&mut self, sql: &str) -> Result<T, Failure> {
        self.rows(sql).await?.pop().ok_or_else(|| Failure::Answer("no row".to_owned()))
    }

    /// Whether the server prepares this: it looks at names and privileges then, and does nothing.
    ///
    /// # Errors
    ///
    /// What the server has against it.
    pub(super) async fn try_prepare(&mut self, sql: &str) -> Result<(), Failure> {
        let connection = self.connection()?;
        let statement = connection.prep(sql).await?;
        Ok(connection.close(statement).await?)
    }

    /// Has these chunks sent when the server next asks for the data of a LOAD DATA LOCAL. The data end where they are abandoned:
    /// of an error in their middle the driver would close the connection. Whoever abandons them must roll back.
    pub(super) fn offer(&mut self, mut chunks: Chunks) -> Result<(), Failure> {
        let data = stream::poll_fn(move |context| {
            chunks.poll_recv(context).map(|chunk| chunk.and_then(Result::ok).map(Ok::<Bytes, io::Error>))
        });
        self.connection()?.set_infile_handler(async move { Ok(data.boxed()) });
        Ok(())
    }
}

/// A row as the tuple that was asked for.
pub(super) fn row<T: FromRow>(row: Row) -> Result<T, Failure> {
    T::from_row_opt(row).map_err(|error| Failure::Answer(error.to_string()))
}

/// A column of a row by its name.
pub(super) fn column<T: FromValue>(row: &Row, name: &str) -> Result<T, Failure> {
    match row.get_opt(name) {
        Some(Ok(value)) => Ok(value),
        _ => Err(Failure::Answer(format!("the column {name} is missing or another"))),
    }
}

/// Whole seconds, which is what the server's timeouts are counted in.
pub(super) fn seconds(time: Duration) -> u64 {
    time.as_millis().div_ceil(1_000).try_into().unwrap_or(SECONDS_MAX).clamp(1, SECONDS_MAX)
}

/// Where the server should be, without what else the URL says.
fn address(options: &Opts) -> String {
    options.socket().map_or_else(|| format!("{}:{}", options.ip_or_hostname(), options.tcp_port()), str::to_owned)
}

fn options(url: &str, tls_ca_file: Option<&Path>) -> Result<Opts, String> {
    let options = Opts::from_url(url).map_err(|error| url_problem(&error))?;
    if options.db_name().is_none() {
        return Err("the URL names no database; write mysql://user@host/database".to_owned());
    }
    let tls = match (options.ssl_opts().cloned(), tls_ca_file) {
        (Some(tls), Some(file)) => Some(tls.with_root_certs(vec![PathBuf::from(file).into()])),
        (None, Some(_)) => {
            return Err("tls_ca_file is of no use without TLS; add ?require_ssl=true to the URL".to_owned());
        }
        (tls, None) => tls,
    };
    let options = OptsBuilder::from_opts(options)
        .ssl_opts(tls)
        // A fence that finds its row has held, whatever it changes there.
        .client_found_rows(true)
        // The driver would else connect twice, the second time to what it takes for the same server's socket.
        .prefer_socket(Some(false))
        .connect_attribute("program_name", PROGRAM_NAME);
    Ok(options.into())
}

/// What is wrong with an URL, without any of it but the names of parameters: it may hold a password.
fn url_problem(error: &UrlError) -> String {
    let is_name = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    match error {
        UrlError::UnknownParameter { param } if is_name(param) => format!("the URL has an unknown parameter {param}"),
        UrlError::InvalidParamValue { param, .. } if is_name(param) => {
            format!("the URL has a value for {param} that it cannot have")
        }
        _ => "the URL is not one of MySQL; write mysql://user@host/database, and %40 for an @ in a password".to_owned(),
    }
}

/// Everything that is set is set whatever the server's own value is. `TRADITIONAL` makes errors of values that do not fit,
/// and leaves backslashes and double quotes what our tokenizer takes them for. Rows lock no gaps at READ COMMITTED, so lanes
/// do not wait for each other. Each transaction of ours is begun by name, so autocommit is on: nothing is left open by
/// what stands outside of one. Silence within a LOAD DATA is bounded by `net_read_timeout`.
fn settings(commit_timeout: Duration) -> String {
    let seconds = seconds(commit_timeout);
    format!(
        "SET NAMES utf8mb4; SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; \
         SET sql_mode = 'TRADITIONAL', autocommit = 1, time_zone = '+00:00', sql_notes = 1, max_error_count = 64, \
         innodb_lock_wait_timeout = {seconds}, lock_wait_timeout = {seconds}, \
         net_read_timeout = {seconds}, net_write_timeout = {seconds}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_never_shows() {
        for url in [
            "mysql://u:secret@h:port/d",
            "mysql://u:secret@h/d?nonsense=1",
            "mysql://u:sec?ret@h/d",
            "mysql://u:secret@h/d?require_ssl=secret",
            "mysql://u:secret@h",
            "secret",
        ] {
            let error = options(url, None).unwrap_err();
            assert!(!error.contains("secret") && !error.contains("ret@"), "{error}");
        }
        assert_eq!(address(&options("mysql://u:secret@h/d?require_ssl=true&verify_ca=false", None).unwrap()), "h:3306");
        assert!(options("mysql://u@h/d", Some(Path::new("/ca.pem"))).unwrap_err().contains("require_ssl"));
    }

    #[test]
    fn what_speaks_of_the_data_is_permanent_and_nothing_else() {
        for (code, state) in [(1062, "23000"), (1644, "45000"), (1644, "02000"), (30_001, "45000"), (1366, "HY000")] {
            assert!(is_permanent(code, state), "{code} {state}");
        }
        for (code, state) in [
            (1205, "HY000"),
            (1213, "40001"),
            (1114, "HY000"),
            (1146, "42S02"),
            (1142, "42000"),
            (1290, "HY000"),
            (1792, "25006"),
            (1927, "70100"),
        ] {
            assert!(!is_permanent(code, state), "{code} {state}");
        }
    }

    #[test]
    fn timeouts_are_whole_seconds_and_not_zero() {
        assert_eq!(
            [0, 1, 1_000, 1_001, u64::MAX].map(|ms| seconds(Duration::from_millis(ms))),
            [1, 1, 1, 2, SECONDS_MAX]
        );
    }
}

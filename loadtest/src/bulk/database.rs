//! The table of a comparison, by way of the database's own programs.

use super::destination::Destination;
use super::{BulkError, BulkPlan};
use crate::peer::{Peer, RunningPeer, ServerProcess, start_mariadb};
use std::fs;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

const TABLE: &str = "forebay_bulk";

const COLUMNS: &str = "id text PRIMARY KEY, buyer text, body text, ticket text";
/// A key of MySQL has a length.
const MYSQL_COLUMNS: &str = "id varchar(255) PRIMARY KEY, buyer text, body text, ticket text";

/// A database, with the URL that it has; that may hold a password.
enum Kind {
    /// A file of the comparison's own.
    Sqlite(PathBuf),
    Postgres(String),
    /// Or MariaDB.
    Mysql(String),
}

/// The table of a comparison.
pub(super) struct Database {
    kind: Kind,
    directory: PathBuf,
    /// Rows of a transaction of psql's; `None` for one transaction of all.
    transaction_rows: Option<u64>,
    server: Option<RunningPeer>,
}

impl Database {
    pub(super) fn sqlite(plan: &BulkPlan) -> Self {
        Self::new(plan, Kind::Sqlite(plan.directory.join("rows.db")), None)
    }

    pub(super) fn postgres(plan: &BulkPlan, url: Option<&str>) -> Result<Self, BulkError> {
        let (url, server) = plan.serve(url, |options| Peer::named("postgres")?.start(options))?;
        Ok(Self::new(plan, Kind::Postgres(url), server))
    }

    pub(super) fn mysql(plan: &BulkPlan, url: Option<&str>) -> Result<Self, BulkError> {
        let (url, server) = plan.serve(url, start_mariadb)?;
        Ok(Self::new(plan, Kind::Mysql(url), server))
    }

    fn new(plan: &BulkPlan, kind: Kind, server: Option<RunningPeer>) -> Self {
        let transaction_rows = plan.same_transactions.then_some(plan.batch_records);
        Self { kind, directory: plan.directory.clone(), transaction_rows, server }
    }

    fn rows(&self) -> PathBuf {
        self.directory.join("rows")
    }

    /// Makes an empty table, and with `whole` removes the position of an earlier round.
    fn clear(&self, whole: bool) -> Result<(), BulkError> {
        match &self.kind {
            Kind::Postgres(_) if whole => self.run(&format!(
                "DROP TABLE IF EXISTS {TABLE}; DROP TABLE IF EXISTS forebay_position; \
                 CREATE TABLE {TABLE} ({COLUMNS}); CHECKPOINT"
            )),
            Kind::Postgres(_) => self.run(&format!("TRUNCATE {TABLE}; CHECKPOINT")),
            Kind::Mysql(_) if whole => self.run(&format!(
                "DROP TABLE IF EXISTS {TABLE}; DROP TABLE IF EXISTS forebay_position; \
                 CREATE TABLE {TABLE} ({MYSQL_COLUMNS}) CHARACTER SET utf8mb4"
            )),
            Kind::Mysql(_) => self.run(&format!("TRUNCATE {TABLE}")),
            Kind::Sqlite(path) => {
                for ending in ["", "-wal", "-shm"] {
                    let _ = fs::remove_file(format!("{}{ending}", path.display()));
                }
                self.run(&format!("PRAGMA journal_mode = WAL; CREATE TABLE {TABLE} ({COLUMNS});"))
            }
        }
    }

    fn transactions(&self) -> PathBuf {
        self.directory.join("transactions.sql")
    }

    /// Writes the exported rows into a script with a transaction for each so many of them, which moves a position as the drain's do.
    fn write_transactions(&self, rows_max: u64) -> Result<(), BulkError> {
        let failed = |path: &Path| super::io_error(path.display().to_string());
        let (from, to) = (self.rows(), self.transactions());
        let mut lines = io::BufReader::new(fs::File::open(&from).map_err(failed(&from))?).split(b'\n').peekable();
        let mut script = io::BufWriter::new(fs::File::create(&to).map_err(failed(&to))?);
        while lines.peek().is_some() {
            let update = format!(
                "UPDATE forebay_position SET position = position + {rows_max} \
                 WHERE part = (SELECT min(part) FROM forebay_position)"
            );
            write!(script, "BEGIN;\n{update};\nCOPY {TABLE} FROM STDIN;\n").map_err(failed(&to))?;
            for line in lines.by_ref().take(usize::try_from(rows_max).unwrap_or(usize::MAX)) {
                let line = line.map_err(failed(&from))?;
                script.write_all(&line).and_then(|()| script.write_all(b"\n")).map_err(failed(&to))?;
            }
            script.write_all(b"\\.\nCOMMIT;\n").map_err(failed(&to))?;
        }
        script.flush().map_err(failed(&to))
    }

    /// Writes the rows of the table into a file, as the loader reads them.
    fn export(&self) -> Result<(), BulkError> {
        let rows = self.rows();
        match &self.kind {
            Kind::Postgres(_) => {
                self.run(&format!("\\copy {TABLE} TO '{}'", rows.display()))?;
                self.transaction_rows.map_or(Ok(()), |rows| self.write_transactions(rows))
            }
            // Its batch output is what LOAD DATA reads, escapes and all.
            Kind::Mysql(_) => self.run_into(&format!("SELECT * FROM {TABLE}"), Some(&rows)),
            Kind::Sqlite(_) => self.run(&format!(".mode csv\n.output {}\nSELECT * FROM {TABLE};\n", rows.display())),
        }
    }

    fn import(&self) -> Result<(), BulkError> {
        let rows = self.rows();
        match &self.kind {
            Kind::Postgres(_) if self.transaction_rows.is_some() => {
                self.run(&format!("\\i '{}'", self.transactions().display()))
            }
            Kind::Postgres(_) => self.run(&format!("\\copy {TABLE} FROM '{}'", rows.display())),
            Kind::Mysql(_) => self
                .run(&format!("LOAD DATA LOCAL INFILE '{}' INTO TABLE {TABLE} CHARACTER SET utf8mb4", rows.display())),
            Kind::Sqlite(_) => self.run(&format!(
                "PRAGMA synchronous = FULL;\n.mode csv\nBEGIN;\n.import {} {TABLE}\nCOMMIT;\n",
                rows.display()
            )),
        }
    }

    /// Runs commands of the database's own program, from its standard input.
    fn run(&self, script: &str) -> Result<(), BulkError> {
        self.run_into(script, None)
    }

    fn run_into(&self, script: &str, output: Option<&Path>) -> Result<(), BulkError> {
        let mut command = self.program()?;
        let program = command.get_program().to_string_lossy().into_owned();
        let failed = |reason: String| BulkError::Program { program: program.clone(), reason };
        let stdout = match output {
            Some(path) => Stdio::from(fs::File::create(path).map_err(super::io_error(path.display().to_string()))?),
            None => Stdio::null(),
        };
        command.stdin(Stdio::piped()).stdout(stdout).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(script.as_bytes()).map_err(|error| failed(error.to_string()))?;
        }
        let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
        if output.status.success() && output.stderr.is_empty() {
            return Ok(());
        }
        Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }

    fn program(&self) -> Result<Command, BulkError> {
        Ok(match &self.kind {
            Kind::Postgres(url) => {
                let mut command = Command::new("psql");
                command.args(["--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--dbname", url]);
                // Whatever is said on standard error is taken for a failure, so notices must not be.
                command.env("PGOPTIONS", "--client-min-messages=warning");
                command
            }
            Kind::Mysql(url) => {
                let place = MysqlPlace::parse(url).ok_or_else(|| BulkError::Program {
                    program: "mariadb".to_owned(),
                    reason: "the URL must be mysql://user[:password]@host[:port]/database".to_owned(),
                })?;
                let mut command = Command::new("mariadb");
                command.args(["--no-defaults", "--batch", "--skip-column-names", "--local-infile=1", "--quick"]);
                command.args(["--protocol=TCP", "--default-character-set=utf8mb4", "--host", place.host, "--port"]);
                command.args([place.port, "--user", place.user, place.database]);
                command.env("MYSQL_PWD", place.password);
                command
            }
            Kind::Sqlite(path) => {
                let mut command = Command::new("sqlite3");
                command.arg("-bail").arg(path);
                command
            }
        })
    }
}

impl Destination for Database {
    fn names(&self) -> (&'static str, &'static str) {
        match &self.kind {
            Kind::Sqlite(_) => ("drain into SQLite", ".import of sqlite3"),
            Kind::Postgres(_) if self.transaction_rows.is_some() => {
                ("drain into PostgreSQL", "psql, as many rows a COMMIT")
            }
            Kind::Postgres(_) => ("drain into PostgreSQL", "\\copy of psql"),
            Kind::Mysql(_) => ("drain into MariaDB", "LOAD DATA of mariadb"),
        }
    }

    fn sink_toml(&self) -> String {
        let (kind, url) = match &self.kind {
            Kind::Sqlite(path) => ("sqlite", path.display().to_string()),
            Kind::Postgres(url) => ("postgres", url.clone()),
            Kind::Mysql(url) => ("mysql", url.clone()),
        };
        format!(
            "type = \"{kind}\"\nurl = {url:?}\ntable = \"{TABLE}\"\n\
             columns = {{ id = \"/order_id\", buyer = \"/user_id\", body = \"$body\", ticket = \"$ticket\" }}\n"
        )
    }

    fn has_transactions(&self) -> bool {
        matches!(self.kind, Kind::Postgres(_))
    }

    fn empty(&mut self) -> Result<(), BulkError> {
        self.clear(true)
    }

    fn load(&mut self, records: u64) -> Result<f64, BulkError> {
        self.export()?;
        self.clear(false)?;
        let started = Instant::now();
        self.import()?;
        Ok(records as f64 / started.elapsed().as_secs_f64())
    }

    fn remove(&mut self) -> Result<(), BulkError> {
        match &self.kind {
            Kind::Postgres(_) | Kind::Mysql(_) => self.run(&format!("DROP TABLE {TABLE}; DROP TABLE forebay_position")),
            Kind::Sqlite(_) => Ok(()),
        }
    }

    fn process(&self) -> Option<ServerProcess> {
        // PostgreSQL works in processes of its sessions, of which the first one knows nothing while they live.
        let is_one = !matches!(self.kind, Kind::Postgres(_));
        self.server.as_ref().filter(|_| is_one)?.process()
    }
}

/// What the program mariadb, which takes no URL, is told piece by piece.
#[derive(Debug, PartialEq)]
struct MysqlPlace<'u> {
    user: &'u str,
    password: &'u str,
    host: &'u str,
    port: &'u str,
    database: &'u str,
}

impl<'u> MysqlPlace<'u> {
    /// Nothing is decoded: an account with odd letters is none for a comparison.
    fn parse(url: &'u str) -> Option<Self> {
        let (account, place) = url.strip_prefix("mysql://")?.rsplit_once('@')?;
        let (user, password) = account.split_once(':').unwrap_or((account, ""));
        let (address, database) = place.split_once('/')?;
        let (host, port) = address.split_once(':').unwrap_or((address, "3306"));
        let whole = ![user, host, port, database].contains(&"") && !database.contains('?');
        whole.then_some(Self { user, password, host, port, database })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        let place = |user, password, port| MysqlPlace { user, password, host: "h", port, database: "d" };
        assert_eq!(MysqlPlace::parse("mysql://u@h/d"), Some(place("u", "", "3306")));
        assert_eq!(MysqlPlace::parse("mysql://u:p@w@h:33/d"), Some(place("u", "p@w", "33")));
        for bad in ["mysql://h/d", "mysql://u@h", "mysql://u@h/", "postgres://u@h/d", "mysql://u@h/d?x=1"] {
            assert_eq!(MysqlPlace::parse(bad), None, "{bad}");
        }
    }
}

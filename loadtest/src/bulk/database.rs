//! The table of a comparison, by way of the database's own programs.

use super::{BulkError, TABLE};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const COLUMNS: &str = "id text PRIMARY KEY, buyer text, body text, ticket text";
/// A key of MySQL has a length.
const MYSQL_COLUMNS: &str = "id varchar(255) PRIMARY KEY, buyer text, body text, ticket text";

/// A database whose bulk loader the drain is held against.
#[derive(Clone)]
pub enum BulkSink {
    /// A SQLite file of the comparison's own.
    Sqlite(PathBuf),
    /// The URL of a PostgreSQL database, which may hold a password.
    Postgres(String),
    /// The URL of a database of MySQL or MariaDB, which may hold a password.
    Mysql(String),
}

impl std::fmt::Debug for BulkSink {
    /// Leaves the URL out, because of its password.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.configured().0)
    }
}

impl BulkSink {
    /// What the comparison is called, and the loader.
    pub(super) fn names(&self) -> (&'static str, &'static str) {
        match self {
            Self::Sqlite(_) => ("drain into SQLite", ".import of sqlite3"),
            Self::Postgres(_) => ("drain into PostgreSQL", "\\copy of psql"),
            Self::Mysql(_) => ("drain into MariaDB", "LOAD DATA of mariadb"),
        }
    }

    /// The `type` and `url` of forebay's configuration.
    pub(super) fn configured(&self) -> (&'static str, String) {
        match self {
            Self::Sqlite(path) => ("sqlite", path.display().to_string()),
            Self::Postgres(url) => ("postgres", url.clone()),
            Self::Mysql(url) => ("mysql", url.clone()),
        }
    }
}

/// The table of a comparison.
pub(super) struct Database<'a> {
    pub(super) sink: &'a BulkSink,
    pub(super) directory: &'a Path,
}

impl Database<'_> {
    fn rows(&self) -> PathBuf {
        self.directory.join("rows")
    }

    /// An empty table, and with `whole` no position of an earlier round either.
    pub(super) fn empty(&self, whole: bool) -> Result<(), BulkError> {
        match self.sink {
            BulkSink::Postgres(_) if whole => self.run(&format!(
                "DROP TABLE IF EXISTS {TABLE}; DROP TABLE IF EXISTS forebay_position; \
                 CREATE TABLE {TABLE} ({COLUMNS}); CHECKPOINT"
            )),
            BulkSink::Postgres(_) => self.run(&format!("TRUNCATE {TABLE}; CHECKPOINT")),
            BulkSink::Mysql(_) if whole => self.run(&format!(
                "DROP TABLE IF EXISTS {TABLE}; DROP TABLE IF EXISTS forebay_position; \
                 CREATE TABLE {TABLE} ({MYSQL_COLUMNS}) CHARACTER SET utf8mb4"
            )),
            BulkSink::Mysql(_) => self.run(&format!("TRUNCATE {TABLE}")),
            BulkSink::Sqlite(path) => {
                for ending in ["", "-wal", "-shm"] {
                    let _ = fs::remove_file(format!("{}{ending}", path.display()));
                }
                self.run(&format!("PRAGMA journal_mode = WAL; CREATE TABLE {TABLE} ({COLUMNS});"))
            }
        }
    }

    /// Writes the rows of the table into a file, as the loader reads them.
    pub(super) fn export(&self) -> Result<(), BulkError> {
        let rows = self.rows();
        match self.sink {
            BulkSink::Postgres(_) => self.run(&format!("\\copy {TABLE} TO '{}'", rows.display())),
            // Its batch output is what LOAD DATA reads, escapes and all.
            BulkSink::Mysql(_) => self.run_into(&format!("SELECT * FROM {TABLE}"), Some(&rows)),
            BulkSink::Sqlite(_) => {
                self.run(&format!(".mode csv\n.output {}\nSELECT * FROM {TABLE};\n", rows.display()))
            }
        }
    }

    pub(super) fn load(&self) -> Result<(), BulkError> {
        let rows = self.rows();
        match self.sink {
            BulkSink::Postgres(_) => self.run(&format!("\\copy {TABLE} FROM '{}'", rows.display())),
            BulkSink::Mysql(_) => self
                .run(&format!("LOAD DATA LOCAL INFILE '{}' INTO TABLE {TABLE} CHARACTER SET utf8mb4", rows.display())),
            BulkSink::Sqlite(_) => self.run(&format!(
                "PRAGMA synchronous = FULL;\n.mode csv\nBEGIN;\n.import {} {TABLE}\nCOMMIT;\n",
                rows.display()
            )),
        }
    }

    pub(super) fn drop(&self) -> Result<(), BulkError> {
        match self.sink {
            BulkSink::Postgres(_) | BulkSink::Mysql(_) => {
                self.run(&format!("DROP TABLE {TABLE}; DROP TABLE forebay_position"))
            }
            BulkSink::Sqlite(_) => Ok(()),
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
        Ok(match self.sink {
            BulkSink::Postgres(url) => {
                let mut command = Command::new("psql");
                command.args(["--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--dbname", url]);
                // Whatever is said on standard error is taken for a failure, so notices must not be.
                command.env("PGOPTIONS", "--client-min-messages=warning");
                command
            }
            BulkSink::Mysql(url) => {
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
            BulkSink::Sqlite(path) => {
                let mut command = Command::new("sqlite3");
                command.arg("-bail").arg(path);
                command
            }
        })
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

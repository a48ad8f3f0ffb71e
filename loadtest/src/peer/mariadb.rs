//! MariaDB with a database and an account of its own, as the drain is measured against it.

use super::child::{Account, START_TIMEOUT, Server, Stop, find_program, free_ports, listens, not_installed, tail};
use super::{PeerError, RunningPeer, StartOptions, write_file};
use crate::wire::Wire;
use rustix::process::geteuid;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

const NAME: &str = "mariadb";

/// What is run when the server starts.
const ACCOUNTS: &str = "CREATE DATABASE forebay;\nCREATE USER forebay@'%';\nGRANT ALL ON forebay.* TO forebay@'%';\n";

/// What differs from the defaults; each commit is synced.
const SETTINGS: &str = "--no-defaults --bind-address=127.0.0.1 --skip-name-resolve --local-infile=1";

/// Starts it. Nothing here loads it, so its wire only says the URL of its database.
pub fn start(options: &StartOptions) -> Result<RunningPeer, PeerError> {
    let find = |name: &str, elsewhere: &str| {
        let found = find_program(&[Path::new(name), Path::new(elsewhere)]);
        found.ok_or_else(|| not_installed(name, "mariadb-server"))
    };
    let program = find("mariadbd", "/usr/sbin/mariadbd")?;
    let installer = find("mariadb-install-db", "/usr/bin/mariadb-install-db")?;
    let directory = options.temporary_directory()?;
    // MariaDB refuses to run as root.
    let account = geteuid().is_root().then(|| Account::of_any(&["mysql", "nobody"])).flatten();
    if let Some(account) = account {
        let chowned = chown(directory.path(), Some(account.user), Some(account.group));
        chowned.map_err(|source| PeerError::Directory { source })?;
    }
    let path = |name: &str| directory.path().join(name).display().to_string();
    let data = format!("--datadir={}", path("data"));
    make_tables(&installer, &data, directory.path(), account)?;
    write_file(&directory.path().join("accounts.sql"), ACCOUNTS)?;
    let [port] = free_ports()?;
    let mut arguments: Vec<String> = SETTINGS.split(' ').map(str::to_owned).collect();
    arguments.extend([data, format!("--port={port}"), format!("--socket={}", path("socket"))]);
    arguments.extend([format!("--pid-file={}", path("pid")), format!("--init-file={}", path("accounts.sql"))]);
    RunningPeer::spawn(Server {
        name: NAME,
        keeps: "",
        wire: Wire::Http { url: format!("mysql://forebay@127.0.0.1:{port}/forebay") },
        program: &program,
        arguments,
        environment: vec![("LC_ALL", "C".to_owned())],
        stop: Stop::Kill,
        account,
        cores: None,
        directory,
    })?
    // It listens only behind the accounts.
    .wait_until(START_TIMEOUT, |_| listens(port))
}

fn make_tables(installer: &Path, data: &str, directory: &Path, account: Option<Account>) -> Result<(), PeerError> {
    let mut command = Command::new(installer);
    command.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", data]);
    command.current_dir(directory).env("LC_ALL", "C").env("TMPDIR", directory);
    if let Some(account) = account {
        account.run(&mut command);
    }
    let ended = command.output();
    let ended = ended.map_err(|source| PeerError::Spawn { program: installer.display().to_string(), source })?;
    if ended.status.success() {
        return Ok(());
    }
    let reason = format!("mariadb-install-db ended with {}", ended.status);
    Err(PeerError::NotReady { name: NAME, reason, log: tail(&ended.stdout) })
}

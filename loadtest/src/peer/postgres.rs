//! PostgreSQL taking each order as a row of its own, in a transaction of its own.

use super::child::{Account, START_TIMEOUT, Server, Stop, find_program, free_ports, not_installed, tail};
use super::{Peer, PeerError, RunningPeer, StartOptions};
use crate::wire::Wire;
use rustix::process::geteuid;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

pub const PEER: Peer = Peer { name: "postgres", start };

const KEEPS: &str = "keeps every row, with its write-ahead log synced (fsync, synchronous_commit) before the commit";

/// Where Debian has the programs of each version.
const VERSIONS: &str = "/usr/lib/postgresql";

/// What differs from the defaults. There are connections for the largest comparison, also while those of the round
/// before are still closing; settings of memory, WAL and syncs are as they come.
const SETTINGS: [&str; 4] =
    ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=1000", "fsync=on"];

fn start(options: &StartOptions) -> Result<RunningPeer, PeerError> {
    start_on_port(options).map(|(peer, _)| peer)
}

/// Starts it as a peer, and says on which port.
pub fn start_on_port(options: &StartOptions) -> Result<(RunningPeer, u16), PeerError> {
    let missing = || not_installed("postgres", "postgresql");
    let programs = programs().ok_or_else(missing)?;
    let directory = options.temporary_directory()?;
    // PostgreSQL refuses to run as root.
    let account =
        if geteuid().is_root() { Some(Account::of_any(&["postgres", "nobody"]).ok_or_else(missing)?) } else { None };
    if let Some(account) = account {
        let chowned = chown(directory.path(), Some(account.user), Some(account.group));
        chowned.map_err(|source| PeerError::Directory { source })?;
    }
    let data = directory.path().join("data").display().to_string();
    make_cluster(&programs.join("initdb"), &data, directory.path(), account)?;
    let [port] = free_ports()?;
    let mut arguments = ["-D", &data, "-p", &port.to_string()].map(str::to_owned).to_vec();
    arguments.extend(SETTINGS.iter().flat_map(|setting| ["-c", setting].map(str::to_owned)));
    let peer = RunningPeer::spawn(Server {
        name: PEER.name,
        keeps: KEEPS,
        wire: Wire::Postgres { port },
        program: &programs.join("postgres"),
        arguments,
        environment: vec![("LC_ALL", "C".to_owned())],
        // Its sessions are in process groups of their own, and only it can end them.
        stop: Stop::Quit,
        account,
        cores: None,
        directory,
    })?
    .wait_until(START_TIMEOUT, |peer| peer.wire.prepare().map_err(|error| error.to_string()))?;
    Ok((peer, port))
}

fn make_cluster(initdb: &Path, data: &str, directory: &Path, account: Option<Account>) -> Result<(), PeerError> {
    let mut command = Command::new(initdb);
    command.args(["--username=forebay", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "-D", data]);
    command.current_dir(directory).env("LC_ALL", "C");
    if let Some(account) = account {
        account.run(&mut command);
    }
    let ended = command.output();
    let ended = ended.map_err(|source| PeerError::Spawn { program: initdb.display().to_string(), source })?;
    if ended.status.success() {
        return Ok(());
    }
    let reason = format!("initdb ended with {}", ended.status);
    Err(PeerError::NotReady { name: PEER.name, reason, log: tail(&ended.stderr) })
}

/// Where the newest installed server's programs are.
fn programs() -> Option<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir(VERSIONS)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, programs)| programs.join("postgres").is_file() && programs.join("initdb").is_file())
        .collect();
    versions.sort();
    let newest = versions.pop().map(|(_, programs)| programs);
    newest.or_else(|| Some(find_program(&[Path::new("initdb")])?.parent()?.to_path_buf()))
}

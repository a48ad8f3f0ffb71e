//! `forebay serve` with one queue into SQLite, draining slowly so that the drain hardly disturbs what is measured.

use super::child::{START_TIMEOUT, Server, Stop, answers_ok, find_program, free_ports};
use super::{Peer, PeerError, RunningPeer, StartOptions, write_file};
use crate::wire::Wire;
use std::path::Path;

pub const PEER: Peer = Peer { name: "forebay", start };

const KEEPS: &str = "keeps every record on disk (fdatasync) before its 202";

/// When a record is acknowledged, as the configuration says it.
#[derive(Clone, Copy)]
pub enum Ack {
    Durable,
    Memory,
}

fn start(options: &StartOptions) -> Result<RunningPeer, PeerError> {
    start_with(PEER.name, KEEPS, Ack::Durable, options)
}

pub fn start_with(
    name: &'static str,
    keeps: &'static str,
    ack: Ack,
    options: &StartOptions,
) -> Result<RunningPeer, PeerError> {
    let binary = options.forebay_binary.as_deref().unwrap_or(Path::new("forebay"));
    let program = find_program(&[binary]).ok_or_else(|| PeerError::Missing {
        program: binary.display().to_string(),
        remedy: "build it with cargo build --release and pass its path".to_owned(),
    })?;
    // The server runs in its own directory, from which a relative path would lead elsewhere.
    let program = program.canonicalize().map_err(|source| PeerError::Directory { source })?;
    let directory = options.temporary_directory()?;
    let [port, admin_port] = free_ports()?;
    let config = directory.path().join("forebay.toml");
    write_file(&config, &configuration(directory.path(), port, admin_port, ack))?;
    RunningPeer::spawn(Server {
        name,
        keeps,
        wire: Wire::Http { url: format!("http://127.0.0.1:{port}/v1/queues/orders/records") },
        program: &program,
        arguments: vec!["serve".to_owned(), "--config".to_owned(), config.display().to_string()],
        environment: Vec::new(),
        stop: Stop::Kill,
        account: None,
        directory,
    })?
    .wait_until(START_TIMEOUT, |_| answers_ok(admin_port, "/readyz"))
}

fn configuration(directory: &Path, port: u16, admin_port: u16, ack: Ack) -> String {
    let ack = match ack {
        Ack::Durable => "durable",
        Ack::Memory => "memory",
    };
    format!(
        "data_dir = {data}

[[listeners]]
protocol = \"http\"
address = \"127.0.0.1:{port}\"

[admin]
address = \"127.0.0.1:{admin_port}\"

[queues.orders]
rate = \"1/s\"
ack = \"{ack}\"

[queues.orders.sink]
type = \"sqlite\"
url = {database}
",
        data = toml_string(&directory.join("data")),
        database = toml_string(&directory.join("orders.db")),
    )
}

/// A path as a TOML basic string.
fn toml_string(path: &Path) -> String {
    let escaped = path.display().to_string().replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_escaped_in_the_configuration() {
        let text = configuration(Path::new("/a \"b\"/c\\d"), 1, 2, Ack::Memory);
        assert!(text.contains(r#"data_dir = "/a \"b\"/c\\d/data""#), "{text}");
        assert!(text.contains("ack = \"memory\""), "{text}");
    }
}

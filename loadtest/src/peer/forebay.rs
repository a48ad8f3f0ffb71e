//! `forebay serve` with one queue into SQLite, draining slowly so that the drain hardly disturbs what is measured.

use super::child::{answers_ok, free_ports};
use super::{Ack, Peer, PeerError, RunningPeer, StartOptions, write_file};
use std::io;
use std::path::Path;
use std::process::Command;

pub const PEER: Peer = Peer { name: "forebay", start };

const KEEPS_DURABLE: &str = "keeps every record on disk (fdatasync) before its 202";
const KEEPS_MEMORY: &str = "keeps every record in memory at its 202 and on disk soon after";

fn start(options: &StartOptions) -> Result<RunningPeer, PeerError> {
    let missing = |program: &Path| PeerError::Missing {
        program: program.display().to_string(),
        remedy: "build it with cargo build --release and pass its path".to_owned(),
    };
    let binary = options.forebay_binary.as_deref().ok_or_else(|| missing(Path::new("forebay")))?;
    let directory = options.temporary_directory()?;
    let [port, admin_port] = free_ports()?;
    let config = directory.path().join("forebay.toml");
    write_file(&config, &configuration(directory.path(), port, admin_port, options.ack))?;
    let mut command = Command::new(binary);
    command.arg("serve").arg("--config").arg(&config);
    let keeps = match options.ack {
        Ack::Durable => KEEPS_DURABLE,
        Ack::Memory => KEEPS_MEMORY,
    };
    let url = format!("http://127.0.0.1:{port}/v1/queues/orders/records");
    RunningPeer::spawn(PEER.name, keeps, url, &mut command, directory)
        .map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => missing(binary),
            _ => PeerError::Spawn { program: binary.display().to_string(), source },
        })?
        .wait_until(|| answers_ok(admin_port, "/readyz"))
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

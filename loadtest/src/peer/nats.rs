//! NATS JetStream with file storage and its defaults.

use super::child::{START_TIMEOUT, Server, Stop, free_ports, installed};
use super::{Peer, PeerError, RunningPeer, StartOptions, write_file};
use crate::wire::Wire;

pub const PEER: Peer = Peer { name: "nats", start };

const KEEPS: &str = "keeps every message in a file before its acknowledgement and syncs it late (sync_interval, 2 \
                     minutes by default): a power cut can lose acknowledged messages";

fn start(options: &StartOptions) -> Result<RunningPeer, PeerError> {
    let program = installed("nats-server", "/usr/sbin/nats-server", "nats-server")?;
    let directory = options.temporary_directory()?;
    let [port] = free_ports()?;
    let config = directory.path().join("nats.conf");
    let store = directory.path().join("jetstream").display().to_string().replace('\\', "\\\\").replace('"', "\\\"");
    write_file(&config, &format!("listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: \"{store}\" }}\n"))?;
    RunningPeer::spawn(Server {
        name: PEER.name,
        keeps: KEEPS,
        wire: Wire::Nats { port },
        program: &program,
        arguments: vec!["--config".to_owned(), config.display().to_string()],
        environment: Vec::new(),
        stop: Stop::Kill,
        account: None,
        cores: None,
        directory,
    })?
    .wait_until(START_TIMEOUT, |peer| peer.wire.prepare().map_err(|error| error.to_string()))
}

//! Redis Streams, with every write synced before it is answered.

use super::child::{START_TIMEOUT, Server, Stop, free_ports, installed};
use super::{Peer, PeerError, RunningPeer, StartOptions};
use crate::wire::Wire;

pub const PEER: Peer = Peer { name: "redis", start };

const KEEPS: &str = "keeps every stream entry in memory and in its append-only file, which is synced (appendfsync \
                     always) before the answer";

/// The file is not rewritten, so that no round is disturbed by the copy that would make.
const SETTINGS: &str =
    "--bind 127.0.0.1 --daemonize no --appendonly yes --appendfsync always --auto-aof-rewrite-percentage 0";

fn start(options: &StartOptions) -> Result<RunningPeer, PeerError> {
    let program = installed("redis-server", "/usr/bin/redis-server", "redis-server")?;
    let directory = options.temporary_directory()?;
    let [port] = free_ports()?;
    let mut arguments: Vec<String> = SETTINGS.split(' ').map(str::to_owned).collect();
    arguments.extend(["--port", &port.to_string(), "--save", ""].map(str::to_owned));
    arguments.extend(["--dir".to_owned(), directory.path().display().to_string()]);
    RunningPeer::spawn(Server {
        name: PEER.name,
        keeps: KEEPS,
        wire: Wire::Redis { port },
        program: &program,
        arguments,
        environment: Vec::new(),
        stop: Stop::Kill,
        account: None,
        cores: options.cores_without_load(),
        directory,
    })?
    .wait_until(START_TIMEOUT, |peer| peer.wire.prepare().map_err(|error| error.to_string()))
}

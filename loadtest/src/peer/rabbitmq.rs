//! RabbitMQ with a durable quorum queue, persistent messages and publisher confirms.

use super::Peer;

pub const PEER: Peer = Peer { name: "rabbitmq", start: broker::start };

#[cfg(not(feature = "brokers"))]
mod broker {
    use super::PEER;
    use crate::peer::{PeerError, RunningPeer, StartOptions};

    pub fn start(_: &StartOptions) -> Result<RunningPeer, PeerError> {
        Err(PeerError::NotBuilt { name: PEER.name, feature: "brokers" })
    }
}

#[cfg(feature = "brokers")]
mod broker {
    use super::PEER;
    use crate::peer::child::{Server, Stop, find_program, free_ports, installed, not_installed};
    use crate::peer::{PeerError, RunningPeer, StartOptions, write_file};
    use crate::wire::Wire;
    use std::path::Path;
    use std::time::Duration;

    const KEEPS: &str =
        "keeps every message in the log of a quorum queue of one member, which is synced before the confirm";

    /// The Erlang machine and the broker's tables take their time, and more of it on a busy machine.
    const START_TIMEOUT: Duration = Duration::from_mins(2);

    /// The package's program in PATH starts this one as the user `rabbitmq`, with files in that user's directories.
    const PROGRAM: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

    /// epmd, which tells Erlang nodes of each other, would be started by the broker as a daemon and stay. Started here,
    /// the broker finds it and it goes with the process group.
    const WITH_EPMD: &str = r#""$1" -address 127.0.0.1 -port "$ERL_EPMD_PORT" & shift; exec "$@""#;

    pub fn start(options: &StartOptions) -> Result<RunningPeer, PeerError> {
        let program = find_program(&[Path::new(PROGRAM), Path::new("rabbitmq-server")])
            .ok_or_else(|| not_installed("rabbitmq-server", "rabbitmq-server"))?;
        let epmd = installed("epmd", "/usr/bin/epmd", "erlang-base")?;
        let shell = installed("sh", "/bin/sh", "dash")?;
        let directory = options.temporary_directory()?;
        let [port, distribution_port, epmd_port] = free_ports()?;
        write_file(&directory.path().join("plugins"), "[].\n")?;
        let path = |name: &str| directory.path().join(name).display().to_string();
        let environment = vec![
            ("HOME", path("")),
            ("ERL_EPMD_PORT", epmd_port.to_string()),
            ("RABBITMQ_NODENAME", format!("forebay-loadtest-{port}@localhost")),
            ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".to_owned()),
            ("RABBITMQ_NODE_PORT", port.to_string()),
            ("RABBITMQ_DIST_PORT", distribution_port.to_string()),
            ("RABBITMQ_MNESIA_BASE", path("mnesia")),
            ("RABBITMQ_LOG_BASE", path("log")),
            ("RABBITMQ_LOGS", "-".to_owned()),
            ("RABBITMQ_PID_FILE", path("pid")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", path("plugins")),
            ("RABBITMQ_GENERATED_CONFIG_DIR", path("generated")),
            // None of these exists, so that nothing of the machine's own broker is read.
            ("RABBITMQ_CONF_ENV_FILE", path("environment.conf")),
            ("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf")),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", path("advanced.config")),
        ];
        let programs = [epmd, program].map(|program| program.display().to_string());
        let arguments = ["-c", WITH_EPMD, "sh"].map(str::to_owned).into_iter().chain(programs).collect();
        RunningPeer::spawn(Server {
            name: PEER.name,
            keeps: KEEPS,
            wire: Wire::Amqp { port },
            program: &shell,
            arguments,
            environment,
            stop: Stop::Kill,
            account: None,
            cores: None,
            directory,
        })?
        .wait_until(START_TIMEOUT, |peer| peer.wire.prepare().map_err(|error| error.to_string()))
    }
}

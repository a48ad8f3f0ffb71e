//! HAProxy with the limit that it has: it counts what it lets through in a second, and refuses the rest.

use super::child::{START_TIMEOUT, Server, Stop, free_ports, installed, listens};
use super::{PeerError, RunningPeer, StartOptions, write_file};
use crate::wire::Wire;

const NAME: &str = "haproxy";
const KEEPS: &str = "keeps nothing";

/// Starts it in front of a local server, to which it lets so many requests a second; it refuses the others with 429.
pub(crate) fn start_limiting(
    options: &StartOptions,
    rate_per_second: u32,
    upstream_port: u16,
) -> Result<RunningPeer, PeerError> {
    let program = installed("haproxy", "/usr/sbin/haproxy", "haproxy")?;
    let directory = options.temporary_directory()?;
    let [port] = free_ports()?;
    let config = directory.path().join("haproxy.cfg");
    write_file(&config, &configuration(port, rate_per_second, upstream_port))?;
    RunningPeer::spawn(Server {
        name: NAME,
        keeps: KEEPS,
        wire: Wire::Http { url: format!("http://127.0.0.1:{port}/") },
        program: &program,
        arguments: vec!["-db".to_owned(), "-f".to_owned(), config.display().to_string()],
        environment: Vec::new(),
        stop: Stop::Kill,
        account: None,
        cores: None,
        directory,
    })?
    .wait_until(START_TIMEOUT, |_| listens(port))
}

/// Only what is let through is counted: with its rate of all requests, clients that repeat would keep each other out.
fn configuration(port: u16, rate_per_second: u32, upstream_port: u16) -> String {
    format!(
        "global
    maxconn 4096
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend burst
    bind 127.0.0.1:{port}
    stick-table type integer size 1 expire 1h store gpc0,gpc0_rate(1s)
    http-request track-sc0 int(1)
    http-request deny deny_status 429 if {{ sc0_gpc0_rate ge {rate_per_second} }}
    http-request sc-inc-gpc0(0)
    default_backend sink
backend sink
    http-reuse always
    server sink 127.0.0.1:{upstream_port}
"
    )
}

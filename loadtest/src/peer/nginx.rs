//! nginx answering 202 to everything from one process: how fast HTTP can be when nothing is kept.

use super::child::{START_TIMEOUT, Server, Stop, free_ports, installed, listens};
use super::{Peer, PeerError, RunningPeer, StartOptions, write_file};
use crate::wire::Wire;
use rustix::thread::CpuSet;

pub const PEER: Peer = Peer { name: "nginx", start };

const KEEPS: &str = "keeps nothing";

/// Requests beyond the rate that [`start_limiting`] holds back at most: more than any load here has in flight.
const DELAYED_REQUESTS_MAX: u32 = 100_000;

fn start(options: &StartOptions) -> Result<RunningPeer, PeerError> {
    run(options, options.cores_without_load(), "", "return 202;")
}

/// Starts it with another answer to everything.
pub(crate) fn start_answering(options: &StartOptions, status: u16) -> Result<RunningPeer, PeerError> {
    run(options, None, "", &format!("return {status};"))
}

/// Starts it in front of a local server, to which it lets so many requests a second; it delays the others.
pub(crate) fn start_limiting(
    options: &StartOptions,
    rate_per_second: u32,
    upstream_port: u16,
) -> Result<RunningPeer, PeerError> {
    let zone = format!(
        "limit_req_zone $server_port zone=all:64k rate={rate_per_second}r/s;
    upstream sink {{ server 127.0.0.1:{upstream_port}; keepalive 256; }}"
    );
    let location = format!(
        "limit_req zone=all burst={DELAYED_REQUESTS_MAX};
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_pass http://sink;"
    );
    run(options, None, &zone, &location)
}

fn run(options: &StartOptions, cores: Option<CpuSet>, http: &str, location: &str) -> Result<RunningPeer, PeerError> {
    let program = installed("nginx", "/usr/sbin/nginx", "nginx-light")?;
    let directory = options.temporary_directory()?;
    let [port] = free_ports()?;
    let root = directory.path().display().to_string();
    let config = directory.path().join("nginx.conf");
    write_file(&config, &configuration(&root, port, http, location))?;
    RunningPeer::spawn(Server {
        name: PEER.name,
        keeps: KEEPS,
        wire: Wire::Http { url: format!("http://127.0.0.1:{port}/") },
        program: &program,
        arguments: ["-p", &root, "-e", "error.log", "-c", &config.display().to_string()].map(str::to_owned).into(),
        environment: Vec::new(),
        stop: Stop::Kill,
        account: None,
        cores,
        directory,
    })?
    .wait_until(START_TIMEOUT, |_| listens(port))
}

/// One process and no master, so that killing the child leaves nothing behind; it serves exactly as one worker does.
fn configuration(root: &str, port: u16, http: &str, location: &str) -> String {
    format!(
        "daemon off;
master_process off;
worker_processes 1;
pid \"{root}/nginx.pid\";
error_log \"{root}/error.log\";
events {{ worker_connections 16384; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 3600s;
    tcp_nodelay on;
    client_body_temp_path \"{root}/body\";
    proxy_temp_path \"{root}/proxy\";
    fastcgi_temp_path \"{root}/fastcgi\";
    uwsgi_temp_path \"{root}/uwsgi\";
    scgi_temp_path \"{root}/scgi\";
    {http}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ {location} }}
    }}
}}
"
    )
}

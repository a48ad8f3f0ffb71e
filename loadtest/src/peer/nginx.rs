//! nginx answering 202 to everything from one process: how fast HTTP can be when nothing is kept.

use super::child::{free_ports, listens};
use super::{Peer, PeerError, RunningPeer, StartOptions, write_file};
use std::io;
use std::process::Command;

pub const PEER: Peer = Peer { name: "nginx", start };

const KEEPS: &str = "keeps nothing";
/// Debian installs it outside the PATH of ordinary users.
const PROGRAMS: [&str; 2] = ["nginx", "/usr/sbin/nginx"];

fn start(options: &StartOptions) -> Result<RunningPeer, PeerError> {
    for program in PROGRAMS {
        match start_program(program, options) {
            Err(PeerError::Spawn { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            settled => return settled,
        }
    }
    Err(PeerError::Missing { program: "nginx".to_owned(), remedy: "apt-get install nginx-light".to_owned() })
}

fn start_program(program: &str, options: &StartOptions) -> Result<RunningPeer, PeerError> {
    let directory = options.temporary_directory()?;
    let [port] = free_ports()?;
    let root = directory.path().display().to_string();
    let config = directory.path().join("nginx.conf");
    write_file(&config, &configuration(&root, port))?;
    let mut command = Command::new(program);
    command.args(["-p", &root, "-e", "error.log", "-c"]).arg(&config);
    let url = format!("http://127.0.0.1:{port}/");
    RunningPeer::spawn(PEER.name, KEEPS, url, &mut command, directory)
        .map_err(|source| PeerError::Spawn { program: program.to_owned(), source })?
        .wait_until(|| listens(port))
}

/// One process and no master, so that killing the child leaves nothing behind; it serves exactly as one worker does.
fn configuration(root: &str, port: u16) -> String {
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
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ return 202; }}
    }}
}}
"
    )
}

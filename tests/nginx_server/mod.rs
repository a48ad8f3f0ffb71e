//! A real nginx for tests: its own directory and port, gone when it is dropped, or when the test is killed.

#![allow(dead_code, reason = "each test uses some of it")]

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::server::eventually;

/// Runs the server, and ends it when our end of the pipe closes.
const GUARD: &str = r#"exec 3<&0; "$@" 3<&- </dev/null & server=$!
{ read -r _ <&3; kill -TERM "$server"; } 2>/dev/null &
exec 3<&-; wait "$server""#;

/// A running server.
pub struct NginxServer {
    directory: TempDir,
    address: SocketAddr,
    guard: Option<Child>,
}

impl NginxServer {
    /// Starts a server with one worker. `http` stands in its section of that name, and `server` in the one of the port, which speaks
    /// TLS if `is_tls`.
    ///
    /// # Panics
    ///
    /// If nginx, or openssl for TLS, is not installed or nginx does not start; a test without it would prove nothing.
    #[must_use]
    pub fn start(is_tls: bool, http: &str, server: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("forebay-nginx-").tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let nginx = Self { directory, address, guard: None };
        let tls = if is_tls { nginx.make_certificate() } else { String::new() };
        let listen = format!("listen {address}{};", if is_tls { " ssl" } else { "" });
        let own = nginx.directory.path().display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {own}/{name};\n"))
            .concat();
        let configuration = format!(
            "daemon off;\nworker_processes 1;\npid {own}/pid;\nerror_log {own}/error.log;\nevents {{}}\nhttp {{\n{temporary}\
             log_format arrivals '$status $http_idempotency_key';\naccess_log {own}/access.log arrivals;\n{http}\n\
             server {{\n{listen}\n{tls}\n{server}\n}}\n}}\n"
        );
        fs::write(nginx.directory.path().join("nginx.conf"), configuration).unwrap();
        let mut nginx = nginx;
        nginx.run();
        nginx
    }

    fn run(&mut self) {
        let program = ["/usr/sbin/nginx", "/usr/bin/nginx", "/usr/local/sbin/nginx"]
            .into_iter()
            .find(|path| PathBuf::from(path).exists());
        let program = program.expect("install nginx: apt-get install nginx-light");
        let mut command = Command::new("sh");
        command.args(["-c", GUARD, "sh", program, "-e"]).arg(self.directory.path().join("error.log"));
        command.arg("-p").arg(self.directory.path()).arg("-c").arg(self.directory.path().join("nginx.conf"));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        self.guard = Some(command.spawn().unwrap());
        eventually("nginx", || {
            let ended = self.guard.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "nginx ended:\n{}", self.file("error.log"));
            TcpStream::connect(self.address).ok()
        });
    }

    /// Kills it with SIGKILL, its worker too.
    pub fn kill9(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            let group = i32::try_from(guard.id()).ok().and_then(Pid::from_raw);
            // It may have ended already.
            group.map(|group| kill_process_group(group, Signal::KILL));
            let _ = guard.wait();
        }
    }

    /// Starts it again on its old port.
    pub fn restart(&mut self) {
        self.kill9();
        self.run();
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has answered so far: each status, with the `Idempotency-Key` of its request.
    #[must_use]
    pub fn answered(&self) -> Vec<(u16, String)> {
        let log = self.file("access.log");
        let line = |line: &str| line.split_once(' ').map(|(status, key)| (status.parse().unwrap(), key.to_owned()));
        log.lines().filter_map(line).collect()
    }

    /// The certificate that it shows, which no authority has signed.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.directory.path().join("certificate.pem")
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.directory.path().join(name)).unwrap_or_default()
    }

    fn make_certificate(&self) -> String {
        let key = self.directory.path().join("key.pem");
        let output = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(self.certificate())
            .output()
            .expect("install openssl: apt-get install openssl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        format!("ssl_certificate {};\nssl_certificate_key {};", self.certificate().display(), key.display())
    }
}

impl Drop for NginxServer {
    fn drop(&mut self) {
        self.kill9();
    }
}

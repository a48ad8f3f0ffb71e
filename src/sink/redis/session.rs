//! A connection to Redis, and what its errors mean.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, FromRedisValue, IntoConnectionInfo, RedisError,
    RedisResult, ServerErrorKind, TlsCertificates, Value,
};

/// Codes of errors that say something of the server or of its configuration, whatever the record.
const CODES_OF_THE_MOMENT: [&str; 18] = [
    "OOM",
    "MISCONF",
    "READONLY",
    "LOADING",
    "BUSY",
    "UNKILLABLE",
    "CLUSTERDOWN",
    "MASTERDOWN",
    "TRYAGAIN",
    "MOVED",
    "ASK",
    "CROSSSLOT",
    "NOAUTH",
    "WRONGPASS",
    "NOPERM",
    "NOREPLICAS",
    "NOSCRIPT",
    "EXECABORT",
];
/// How errors without such a code begin. A command has as many words for one record as for another, so if they are too few, or the
/// command is not known, it is the configuration that is wrong.
///
/// The last one is what Lua says without a command having failed.
const BEGINNINGS_OF_THE_MOMENT: [&str; 11] = [
    "The user executing the script",
    "ACL failure in script",
    "Wrong number of args",
    "wrong number of arguments",
    "Unknown Redis command",
    "Unknown command",
    "unknown command",
    "This Redis command is not allowed",
    "This command is not allowed",
    "Script attempted to access",
    "not enough memory",
];

/// Which server, and whom it is to be trusted by.
pub(super) struct Target {
    pub(super) url: String,
    /// A file with certificates of authorities; empty for those of the system.
    pub(super) ca_file: String,
}

/// An open connection; dropping it closes the socket, whatever is under way.
pub(super) struct Session {
    connection: MultiplexedConnection,
    address: String,
}

impl Target {
    /// Connects to the server of the URL, or to the node to which its cluster has redirected us.
    ///
    /// # Errors
    ///
    /// Why there is no connection, in a sentence without the URL, which may hold a password.
    pub(super) async fn connect(&self, redirected: Option<&str>, timeout: Duration) -> Result<Session, String> {
        let client = self.client(redirected)?;
        let address = client.get_connection_info().addr().to_string();
        // Every answer is waited for within bounds of our own.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        match tokio::time::timeout(timeout, connecting).await {
            Ok(Ok(connection)) => Ok(Session { connection, address }),
            Ok(Err(error)) => Err(format!("{address}: {}", describe(&error))),
            Err(_) => Err(format!("{address}: no connection within {} ms", timeout.as_millis())),
        }
    }

    fn client(&self, redirected: Option<&str>) -> Result<Client, String> {
        let wrong = |error: RedisError| format!("the URL is not one of Redis: {error}");
        let mut info = self.url.as_str().into_connection_info().map_err(wrong)?;
        if let Some(node) = redirected {
            let address =
                moved(info.addr(), node).ok_or_else(|| format!("the cluster has redirected us to {node:?}"))?;
            info = info.set_addr(address);
        }
        if self.ca_file.is_empty() {
            return Client::open(info).map_err(wrong);
        }
        if !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            return Err("`tls_ca_file` is of no use to a URL without TLS; write `rediss://` or remove it".to_owned());
        }
        let certificates = std::fs::read(&self.ca_file).map_err(|error| format!("{}: {error}", self.ca_file))?;
        let trusted = TlsCertificates { client_tls: None, root_cert: Some(certificates) };
        Client::build_with_tls(info, trusted).map_err(|error| format!("{}: {}", self.ca_file, describe(&error)))
    }
}

/// The address of another node, `host:port`. A node that does not know its own name says none, and means the one that was asked.
fn moved(asked: &ConnectionAddr, node: &str) -> Option<ConnectionAddr> {
    let (name, port) = node.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let host = |known: &str| if name.is_empty() { known.to_owned() } else { name.to_owned() };
    match asked {
        ConnectionAddr::TcpTls { host: known, insecure, tls_params, .. } => Some(ConnectionAddr::TcpTls {
            host: host(known),
            port,
            insecure: *insecure,
            tls_params: tls_params.clone(),
        }),
        ConnectionAddr::Tcp(known, _) => Some(ConnectionAddr::Tcp(host(known), port)),
        _ => Some(ConnectionAddr::Tcp(name.to_owned(), port)),
    }
}

impl Session {
    /// Asks and returns the answer.
    pub(super) async fn ask<T: FromRedisValue>(&mut self, request: &Cmd) -> RedisResult<T> {
        request.query_async(&mut self.connection).await
    }

    /// Runs a script by its hash; a server that has forgotten it, or never known it, is told.
    pub(super) async fn run(&mut self, request: &Cmd, script: &str) -> RedisResult<Value> {
        match self.ask(request).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                let mut load = redis::cmd("SCRIPT");
                load.arg("LOAD").arg(script);
                self.ask::<String>(&load).await?;
                self.ask(request).await
            }
            settled => settled,
        }
    }

    /// The error as the sink says it: nothing that a server answers to a request as a whole is about one record.
    pub(super) fn failed(&self, error: &RedisError) -> super::SinkError {
        super::transient(format!("{}: {}", self.address, describe(error)))
    }
}

/// The server's own words, or what kept us from hearing them.
fn describe(error: &RedisError) -> String {
    let advice = match error.code() {
        _ if error.to_string().contains("Authentication required") => {
            "; write the user and the password into the URL: redis://user:password@host"
        }
        Some("NOPERM") => "; let the user run the commands that forebay needs (docs/sinks/redis.md)",
        Some("READONLY") => "; this is a replica, forebay must write to the primary",
        _ => "",
    };
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}{advice}"),
        _ => format!("{error}{advice}"),
    }
}

/// Whether an error that a command had within the script says something of the server or of the configuration, and not of the record.
pub(super) fn is_of_the_moment(why: &str) -> bool {
    let (code, rest) = why.split_once(' ').unwrap_or((why, ""));
    if CODES_OF_THE_MOMENT.contains(&code) {
        return true;
    }
    let rest = if code == "ERR" { rest } else { why };
    BEGINNINGS_OF_THE_MOMENT.iter().any(|beginning| rest.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_record_and_of_the_moment_are_told_apart() {
        for of_the_record in [
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            "ERR value is not an integer or out of range",
            "ERR increment or decrement would overflow",
            "ERR The ID specified in XADD is equal or smaller than the target stream top item",
            "",
        ] {
            assert!(!is_of_the_moment(of_the_record), "{of_the_record}");
        }
        for of_the_moment in [
            "OOM command not allowed when used memory > 'maxmemory'.",
            "READONLY You can't write against a read only replica.",
            "NOPERM this user has no permissions to run the 'xadd' command",
            "ERR The user executing the script can't run this command or subcommand",
            "ERR Wrong number of args calling Redis command from script",
            "ERR wrong number of arguments for 'hset' command",
            "ERR Script attempted to access keys that do not hash to the same slot",
            "not enough memory",
        ] {
            assert!(is_of_the_moment(of_the_moment), "{of_the_moment}");
        }
    }

    #[test]
    fn a_password_never_shows() {
        for url in [
            "redis://u:secret@h:port/d",
            "redis://u:secret@h/nonsense",
            "redis://u:secret@/",
            "rediss://u:secret@h/#odd",
        ] {
            let target = Target { url: url.to_owned(), ca_file: String::new() };
            let error = target.client(None).err().unwrap_or_default();
            assert!(error.contains("not one of Redis") && !error.contains("secret"), "{url}: {error}");
        }
        let target = Target { url: "redis://u:secret@h/1".to_owned(), ca_file: "/ca.pem".to_owned() };
        assert!(target.client(None).err().unwrap_or_default().contains("rediss://"));
    }
}

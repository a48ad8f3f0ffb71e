//! The little that the demo asks the admin address for, over plain blocking HTTP.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Time to connect, and for each read and write.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of an answer that are read; the metrics of one queue are far below it.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Where the queue stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// The last sequence given out.
    pub appended: u64,
    /// The last sequence on disk.
    pub durable: u64,
    /// The last sequence committed in the database.
    pub delivered: u64,
    /// Records on disk and not in the database.
    pub backlog: u64,
    /// Records that the database refused for good.
    pub dead_letters: u64,
    /// Whether the drain has given up.
    pub halted: bool,
}

impl Gauges {
    /// Whether everything that was accepted is in the database.
    pub fn is_drained(&self) -> bool {
        self.durable >= self.appended && self.delivered >= self.durable
    }
}

/// Whether the server accepts records.
pub fn is_ready(admin: SocketAddr) -> bool {
    get(admin, "/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// Reads the gauges; `None` when the server does not answer in time.
pub fn gauges(admin: SocketAddr) -> Option<Gauges> {
    parse(&get(admin, "/metrics").ok()?)
}

/// Gets a path; the answer with its head.
fn get(admin: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&admin, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

/// Reads the gauges out of the metrics of a server with one queue.
fn parse(text: &str) -> Option<Gauges> {
    let value = |name: &str| {
        let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        text.lines().find(of_name)?.rsplit(' ').next()?.parse().ok()
    };
    Some(Gauges {
        appended: value("forebay_appended_sequence")?,
        durable: value("forebay_durable_sequence")?,
        delivered: value("forebay_delivered_sequence")?,
        backlog: value("forebay_backlog_records")?,
        dead_letters: value("forebay_dead_letters")?,
        halted: value("forebay_drain_halted")? == 1_u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "HTTP/1.1 200 OK\r\n\r\n# HELP forebay_appended_sequence The last sequence given out.
# TYPE forebay_appended_sequence gauge
forebay_appended_sequence{queue=\"orders\"} 12
forebay_durable_sequence{queue=\"orders\"} 11
forebay_delivered_sequence{queue=\"orders\"} 9
forebay_backlog_records{queue=\"orders\"} 2
forebay_dead_letters{queue=\"orders\"} 0
forebay_drain_halted{queue=\"orders\"} 0
# EOF
";

    #[test]
    fn gauges_are_read_from_the_metrics() {
        let expected = Gauges { appended: 12, durable: 11, delivered: 9, backlog: 2, dead_letters: 0, halted: false };
        assert_eq!(parse(TEXT), Some(expected));
        assert!(!expected.is_drained());
        assert!(Gauges { durable: 12, delivered: 12, ..expected }.is_drained());
        assert!(!Gauges { durable: 11, delivered: 11, ..expected }.is_drained());
    }

    #[test]
    fn half_an_answer_is_no_answer() {
        let text = TEXT.split("forebay_dead_letters").next().unwrap();
        assert_eq!(parse(text), None);
    }
}

//! What the suite asks of a sink's row.

use std::net::SocketAddr;

/// A record as it has arrived.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrival {
    pub ticket: String,
    pub body: Vec<u8>,
}

/// Whose server a destination is on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// Everybody's who runs at the moment.
    Shared,
    /// This one's alone, since it will be taken away.
    Own,
}

/// A destination of its own for one test, on a real server.
pub trait Station: Sized {
    /// Its word in `type`.
    const KIND: &'static str;
    /// Whether rows and position are one transaction. Otherwise what is under way at a kill may come again.
    const EXACTLY_ONCE: bool;

    fn start(server: Server) -> Self;

    /// The lines of the sink's section of the configuration, without a header. It takes any bytes, and nothing there keeps a
    /// record out that has come before.
    fn sink(&self) -> String;

    /// Everything that is there, in any order; nothing if nothing has ever come.
    fn arrived(&self) -> Vec<Arrival>;

    /// Makes it unusable at once, by kill -9 if there is a server.
    fn take_away(&mut self);

    /// Ends that, and waits until it is usable.
    fn bring_back(&mut self);
}

/// One that is reached over TCP.
pub trait Served: Station {
    fn address(&self) -> SocketAddr;

    /// As [`sink`](Station::sink), for a server that is reached at this address.
    fn sink_at(&self, address: SocketAddr) -> String;

    /// The section with a password in its URL, for a server that refuses whoever comes with it.
    fn sink_refused(&self, password: &str) -> String;

    /// The same, for an address where nobody listens.
    fn sink_unreachable(address: SocketAddr, password: &str) -> String;
}

/// One that has a transaction on the wire.
pub trait Transactional: Served {
    /// The first of what a batch sends.
    const BEGIN: Moment;
    /// The answer to the fence.
    const FENCED: Moment;
    /// What makes a batch final.
    const COMMIT: Moment;
    /// The answer to that.
    const COMMITTED: Moment;
}

/// A point of the conversation between forebay and a server. It begins with the request's needle, or, where there is an answer's,
/// with the first occurrence of that behind the request.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub request: &'static [u8],
    /// Empty for the first byte of whatever comes.
    pub answer: Option<&'static [u8]>,
}

/// One that can be made to refuse a record for good.
pub trait Refusing: Station {
    /// Lets it refuse this body from here on; returns what its reason must say.
    fn refuse(&self, body: &str) -> &'static str;
}

/// One that takes rows of typed columns.
pub trait Typed: Station {
    /// Makes a table and returns the section that writes `id` from `/id` (a 64 bit integer, not NULL), `small` from `/small` (a
    /// 16 bit integer) and `note` from `/note` (text).
    fn sink_typed(&self) -> String;

    /// Makes a table and returns the section that writes `raw` (text) from `$body`.
    fn sink_text(&self) -> String;

    /// The rows of both, by `id` or `raw`, each value as text and NULL as `NULL`.
    fn rows_typed(&self) -> Vec<Vec<String>>;
    fn rows_text(&self) -> Vec<Vec<String>>;
}

//! `forebay serve` as in [`super::forebay`], but with `ack = "memory"`.

use super::forebay::{Ack, Forebay, ForebayConfiguration};
use super::{Peer, PeerError, RunningPeer, StartOptions};

pub const PEER: Peer = Peer { name: "forebay-memory", start };

const KEEPS: &str = "keeps every record in memory at its 202 and on disk soon after: a crash loses the latest";

fn start(options: &StartOptions) -> Result<RunningPeer, PeerError> {
    let configuration = ForebayConfiguration { ack: Ack::Memory, ..ForebayConfiguration::default() };
    Ok(Forebay::start_as(PEER.name, KEEPS, &configuration, options)?.into_peer())
}

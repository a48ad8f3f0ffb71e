//! Listening sockets: one for every executor and address, all sharing the address, so that
//! the kernel spreads connections over the cores.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait to be accepted on one socket. The kernel cuts it to `somaxconn`.
const ACCEPT_BACKLOG: i32 = 65_535;

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {error}{}", hint(error))]
pub struct ListenError {
    /// Which address.
    pub address: SocketAddr,
    /// What the kernel said.
    pub error: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another process has it (ss -ltnp shows which), or choose another port",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE, or choose a higher port",
        io::ErrorKind::AddrNotAvailable => "; no interface of this machine has that address",
        _ => "",
    }
}

/// Binds `count` sockets to one address. Port 0 takes a free port, the same for all of them.
///
/// # Errors
///
/// The address is taken, not ours, or not permitted.
pub fn bind(address: SocketAddr, count: usize) -> Result<(SocketAddr, Vec<Socket>), ListenError> {
    let failed = |error| ListenError { address, error };
    // With SO_REUSEPORT a second process of the same user could share the address and take half of
    // the connections. A socket without it finds out whether anybody listens there already.
    let probe = socket(address, false).map_err(failed)?;
    let bound = probe.local_addr().map_err(failed)?.as_socket().unwrap_or(address);
    drop(probe);
    let sockets = (0..count)
        .map(|_| {
            let socket = socket(bound, true)?;
            // Answers are small and complete; waiting to fill a packet would only delay them. Connections
            // inherit this from the socket that they were accepted on.
            socket.set_tcp_nodelay(true)?;
            socket.listen(ACCEPT_BACKLOG)?;
            Ok(socket)
        })
        .collect::<io::Result<Vec<_>>>()
        .map_err(failed)?;
    Ok((bound, sockets))
}

fn socket(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the connections of the process before it.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_somebody_listens_on_is_refused() {
        let (address, sockets) = bind(([127, 0, 0, 1], 0).into(), 2).unwrap();
        assert_eq!(sockets.len(), 2);
        let error = bind(address, 1).unwrap_err();
        assert!(error.to_string().contains("another process has it"), "{error}");
    }
}

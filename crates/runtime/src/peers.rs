//! Peers: which addresses count as one, and those that are gone without a word, because their machine lost its power or
//! the network between was cut.
use socket2::{SockRef, TcpKeepalive};
use std::{
    io,
    net::{IpAddr, Ipv6Addr},
    os::fd::AsFd,
    time::Duration,
};

/// Returns the address that stands for all addresses of whoever has `address`: an IPv6 host has a whole /64 network,
/// and an IPv4 host is the same one behind a socket for both.
pub fn holder(address: IpAddr) -> IpAddr {
    const NETWORK: u128 = !0 << 64;
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & NETWORK)),
        address @ IpAddr::V4(_) => address,
    }
}

/// A connection whose peer says nothing, not even that it got what was sent, is broken within this time.
pub const LOST_PEER_TIMEOUT: Duration = Duration::from_secs(40);

/// Has the system break a connection whose peer has answered nothing for `timeout`, at least a second. A listening
/// socket hands that on to the connections that it accepts.
pub fn notice_lost_peers(socket: &impl AsFd, timeout: Duration) -> io::Result<()> {
    /// After a silence as long as `PARTS_OF_SILENCE` of these parts of the timeout, one probe in each.
    const PARTS: u32 = 8;
    const PARTS_OF_SILENCE: u32 = 2;
    let part = (timeout / PARTS).max(Duration::from_secs(1));
    let keepalive = TcpKeepalive::new()
        .with_time(part * PARTS_OF_SILENCE)
        .with_interval(part)
        .with_retries(PARTS - PARTS_OF_SILENCE);
    let socket = SockRef::from(socket);
    socket.set_tcp_keepalive(&keepalive)?;
    // For what was sent and is not acknowledged, which the probes wait for.
    socket.set_tcp_user_timeout(Some(timeout))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests connect to addresses, not to names")]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_network_of_one_host_counts_as_one_peer() {
        for (address, stands_for) in [
            ("10.1.2.3", "10.1.2.3"),
            ("::ffff:10.1.2.3", "10.1.2.3"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:db8:1:2::7", "2001:db8:1:2::"),
            ("2001:db8:1:3::7", "2001:db8:1:3::"),
        ] {
            let [address, stands_for] = [address, stands_for].map(|text| text.parse().expect("an address"));
            assert_eq!(holder(address), stands_for);
        }
    }

    #[test]
    fn accepted_connections_have_what_their_listener_has() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        notice_lost_peers(&listener, LOST_PEER_TIMEOUT).expect("known options");
        let _peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("listening");
        let (accepted, _) = listener.accept().expect("it waits");
        let socket = SockRef::from(&accepted);
        assert!(socket.keepalive().expect("known"));
        assert_eq!(socket.tcp_keepalive_time().expect("known"), Duration::from_secs(10));
        assert_eq!(socket.tcp_keepalive_interval().expect("known"), Duration::from_secs(5));
        assert_eq!(socket.tcp_keepalive_retries().expect("known"), 6);
        assert_eq!(socket.tcp_user_timeout().expect("known"), Some(LOST_PEER_TIMEOUT));
    }
}

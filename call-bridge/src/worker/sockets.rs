use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use quinn_udp::{Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{MediaAddress, Settings};

/// What the kernel may hold for us in each direction, in bytes; it gives less if it is configured so.
const BUFFER: usize = 4 * 1_024 * 1_024;

/// The sockets of a worker: one a family, on the port of all media.
pub(super) struct Sockets {
    families: Vec<MediaSocket>,
    addresses: Vec<MediaAddress>,
    port: u16,
}

pub(super) struct MediaSocket {
    pub(super) socket: UdpSocket,
    pub(super) state: UdpSocketState,
    ipv6: bool,
}

impl Sockets {
    /// Those of each worker.
    pub(super) fn bind(settings: &Settings) -> io::Result<Vec<Self>> {
        let workers = settings.workers.get();
        let mut port = settings.udp_port;
        if workers > 1 {
            // Sockets that share a port share it with whoever asks: whether somebody has it already would not be noticed.
            port = Self::bind_shared(settings, port, false)?.port;
        }
        let mut sockets = Vec::with_capacity(workers);
        for _ in 0..workers {
            let of_worker = Self::bind_shared(settings, port, workers > 1)?;
            port = of_worker.port;
            sockets.push(of_worker);
        }
        Ok(sockets)
    }

    fn bind_shared(settings: &Settings, mut port: u16, is_shared: bool) -> io::Result<Self> {
        let mut families = Vec::new();
        for ipv6 in [false, true] {
            if let Some(address) = address_to_bind(&settings.addresses, ipv6) {
                let socket = MediaSocket::bind(SocketAddr::new(address, port), is_shared)?;
                port = socket.socket.local_addr()?.port();
                families.push(socket);
            }
        }
        Ok(Self { families, addresses: settings.addresses.clone(), port })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn families(&self) -> &[MediaSocket] {
        &self.families
    }

    /// What clients are told.
    pub(super) fn candidates(&self) -> Vec<SocketAddr> {
        self.addresses.iter().map(|address| address.candidate(self.port)).collect()
    }

    /// The address by which clients know the one at which a datagram arrived.
    pub(super) fn advertised(&self, arrived_at: Option<IpAddr>, ipv6: bool) -> Option<SocketAddr> {
        let of_family = || self.addresses.iter().filter(|address| address.local.is_ipv6() == ipv6);
        let exact = of_family().find(|address| Some(address.local) == arrived_at);
        exact.or_else(|| of_family().next()).map(|address| address.candidate(self.port))
    }

    /// Sends datagrams of one size, the last perhaps smaller. What does not fit into the kernel's buffer is lost, as on any network.
    pub(super) fn send(
        &self,
        source: SocketAddr,
        destination: SocketAddr,
        contents: &[u8],
        segment_size: Option<usize>,
    ) {
        let of_family = |socket: &&MediaSocket| socket.ipv6 == destination.is_ipv6();
        let Some(socket) = self.families.iter().find(of_family) else { return };
        let source = self.addresses.iter().find(|address| address.advertised == source.ip());
        let src_ip = source.map(|address| address.local).filter(|address| !address.is_unspecified());
        let transmit = Transmit { destination, ecn: None, contents, segment_size, src_ip };
        if let Err(error) = socket.state.try_send((&socket.socket).into(), &transmit) {
            tracing::trace!(%error, %destination, "a datagram was not sent");
        }
    }

    pub(super) fn max_segments(&self) -> usize {
        self.families.iter().map(|socket| socket.state.max_gso_segments()).min().unwrap_or(1)
    }
}

impl MediaSocket {
    /// Of several sockets that share a port, each gets all datagrams of some of the addresses from which they come.
    fn bind(address: SocketAddr, is_shared: bool) -> io::Result<Self> {
        let ipv6 = address.is_ipv6();
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if ipv6 {
            socket.set_only_v6(true)?;
        }
        if is_shared {
            socket.set_reuse_port(true)?;
        }
        socket.set_recv_buffer_size(BUFFER)?;
        socket.set_send_buffer_size(BUFFER)?;
        socket.bind(&address.into())?;
        let socket: UdpSocket = socket.into();
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self { socket, state, ipv6 })
    }

    pub(super) fn is_ipv6(&self) -> bool {
        self.ipv6
    }
}

/// The address to which the socket of a family is bound; `None` if the family is not used. Addresses come and go while a server runs, so that
/// is all of them, unless only this machine is to reach it.
fn address_to_bind(addresses: &[MediaAddress], ipv6: bool) -> Option<IpAddr> {
    let mut of_family = addresses.iter().filter(|address| address.local.is_ipv6() == ipv6).peekable();
    let first = of_family.peek()?.local;
    let unspecified: IpAddr = if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    Some(if first.is_loopback() && of_family.all(|address| address.local == first) {
        first
    } else {
        unspecified
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ApiKey;

    fn bound(addresses: &[&str], ipv6: bool) -> Option<String> {
        let parsed = addresses.iter().map(|address| address.parse::<IpAddr>().unwrap().into());
        let addresses: Vec<MediaAddress> = parsed.collect();
        address_to_bind(&addresses, ipv6).map(|address| address.to_string())
    }

    /// One-to-one NAT: clients know another address than the one that packets come to and go from.
    #[test]
    fn clients_know_a_translated_address_only() {
        let loopback = Ipv4Addr::LOCALHOST.into();
        let outside: IpAddr = "203.0.113.7".parse().unwrap();
        let key = ApiKey { name: "key".to_owned(), secret: "a secret of this test".to_owned() };
        let address = MediaAddress { local: loopback, advertised: outside };
        let settings =
            Settings { workers: std::num::NonZeroUsize::MIN, ..Settings::new(key, 0, vec![address]) };
        let sockets = Sockets::bind(&settings).unwrap().remove(0);
        let known = SocketAddr::new(outside, sockets.port());
        assert_eq!(sockets.candidates(), [known]);
        assert_eq!(sockets.advertised(Some(loopback), false), Some(known));
        assert_eq!(sockets.advertised(Some(loopback), true), None, "there is no IPv6");

        let client = UdpSocket::bind((loopback, 0)).unwrap();
        client.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        sockets.send(known, client.local_addr().unwrap(), b"packet", None);
        let mut packet = [0; 16];
        let (length, from) = client.recv_from(&mut packet).unwrap();
        assert_eq!((&packet[..length], from), (&b"packet"[..], SocketAddr::new(loopback, sockets.port())));
    }

    #[test]
    fn what_only_this_machine_is_to_reach_is_open_to_nobody_else() {
        assert_eq!(bound(&["127.0.0.1"], false).as_deref(), Some("127.0.0.1"));
        assert_eq!(bound(&["127.0.0.1"], true), None);
        assert_eq!(bound(&["::1", "192.0.2.1"], true).as_deref(), Some("::1"));
        assert_eq!(bound(&["::1", "192.0.2.1"], false).as_deref(), Some("0.0.0.0"));
        assert_eq!(bound(&["127.0.0.1", "192.0.2.1"], false).as_deref(), Some("0.0.0.0"));
        assert_eq!(bound(&["127.0.0.1", "127.0.0.2"], false).as_deref(), Some("0.0.0.0"));
        assert_eq!(bound(&["2001:db8::1"], true).as_deref(), Some("::"));
    }
}

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use quinn_udp::{Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{MediaAddress, Settings};

/// What the kernel may hold for us in each direction, in bytes; it gives less if it is configured so.
const BUFFER: usize = 4 * 1_024 * 1_024;

/// The sockets of all media: one a family, on one port.
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
    pub(super) fn bind(settings: &Settings) -> io::Result<Self> {
        let mut port = settings.udp_port;
        let mut sockets = Vec::new();
        for ipv6 in [false, true] {
            if settings.addresses.iter().any(|address| address.local.is_ipv6() == ipv6) {
                let socket = MediaSocket::bind(ipv6, port)?;
                port = socket.socket.local_addr()?.port();
                sockets.push(socket);
            }
        }
        Ok(Self { families: sockets, addresses: settings.addresses.clone(), port })
    }

    pub(super) fn len(&self) -> usize {
        self.families.len()
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn get(&self, index: usize) -> Option<&MediaSocket> {
        self.families.get(index)
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

    /// Which socket a datagram goes out by.
    pub(super) fn index_for(&self, destination: SocketAddr) -> Option<usize> {
        self.families.iter().position(|socket| socket.ipv6 == destination.is_ipv6())
    }

    /// Sends datagrams of one size, the last perhaps smaller. What does not fit into the kernel's buffer is lost, as on any network.
    pub(super) fn send(
        &self,
        source: SocketAddr,
        destination: SocketAddr,
        contents: &[u8],
        segment_size: Option<usize>,
    ) {
        let Some(socket) = self.index_for(destination).and_then(|index| self.families.get(index)) else {
            return;
        };
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
    fn bind(ipv6: bool, port: u16) -> io::Result<Self> {
        let (domain, any): (_, IpAddr) = if ipv6 {
            (Domain::IPV6, Ipv6Addr::UNSPECIFIED.into())
        } else {
            (Domain::IPV4, Ipv4Addr::UNSPECIFIED.into())
        };
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        if ipv6 {
            socket.set_only_v6(true)?;
        }
        socket.set_recv_buffer_size(BUFFER)?;
        socket.set_send_buffer_size(BUFFER)?;
        socket.bind(&SocketAddr::new(any, port).into())?;
        let socket: UdpSocket = socket.into();
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self { socket, state, ipv6 })
    }

    pub(super) fn is_ipv6(&self) -> bool {
        self.ipv6
    }
}

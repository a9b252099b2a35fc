use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::UdpSocket,
    sync::mpsc,
    time,
};
use turn_server_proto::{
    api::SocketAllocateError,
    types::{AddressFamily, Instant},
};

use crate::{
    RelayAddress, framing,
    policy::Listed,
    quota::{Allowance, Counted},
    server::Shared,
    session::{Outgoing, Session, Step},
};

/// A client that has no relayed address for this time is forgotten, whatever else it says.
const PATIENCE: Duration = Duration::from_secs(30);
/// A client that takes nothing for this time is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Ports that are tried before a relayed address is said to be impossible.
const ATTEMPTS: usize = 20;
/// Datagrams that are taken from one relayed address before the client is listened to again.
const BATCH: usize = 32;

/// How a client is reached.
pub(crate) trait Link {
    /// The next message; `None` if there will be none. Nothing is lost if it is no longer waited for.
    async fn receive(&mut self) -> io::Result<Option<Bytes>>;

    /// Sends a message.
    async fn send(&mut self, message: &[u8]) -> io::Result<()>;
}

/// A client that sends datagrams.
pub(crate) struct Datagrams {
    pub(crate) socket: Arc<UdpSocket>,
    pub(crate) client: SocketAddr,
    pub(crate) arrived: mpsc::Receiver<Bytes>,
}

impl Link for Datagrams {
    async fn receive(&mut self) -> io::Result<Option<Bytes>> {
        Ok(self.arrived.recv().await)
    }

    async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        // What does not fit into the kernel's buffer is lost, as on any network.
        if let Err(error) = self.socket.try_send_to(message, self.client) {
            tracing::trace!(%error, client = %self.client, "a datagram was not sent");
        }
        Ok(())
    }
}

/// A client at the other end of a connection.
pub(crate) struct Stream<S> {
    inner: S,
    buffer: BytesMut,
    begun: bool,
}

impl<S> Stream<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self { inner, buffer: BytesMut::with_capacity(4 * 1_024), begun: false }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Link for Stream<S> {
    async fn receive(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if !self.begun {
                framing::check_beginning(&self.buffer).map_err(io::Error::other)?;
            }
            if let Some(message) = framing::split(&mut self.buffer).map_err(io::Error::other)? {
                self.begun = true;
                return Ok(Some(message));
            }
            if self.inner.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let padding = framing::padding(message);
        let sent = async {
            if padding.is_empty() {
                self.inner.write_all(message).await?;
            } else {
                self.inner.write_all(&[message, padding].concat()).await?;
            }
            self.inner.flush().await
        };
        time::timeout(WRITE_TIMEOUT, sent).await?
    }
}

/// A relayed address, as others know it, and its socket.
struct Relay {
    address: SocketAddr,
    socket: UdpSocket,
    _counted: Counted,
    _listed: Listed,
}

/// Serves a client until it ends, or has had no relayed address for too long.
pub(crate) struct Client<L> {
    shared: Arc<Shared>,
    session: Session,
    link: L,
    relays: Vec<Relay>,
    allowance: Allowance,
    /// Since when it has no relayed address, if it has none.
    idle_since: Instant,
    /// Counted among those of its network of whom nobody knows who they are.
    stranger: Option<Counted>,
}

impl<L: Link> Client<L> {
    /// A client whose session has begun; `stranger` counts it until it has shown who it is.
    pub(crate) fn new(shared: Arc<Shared>, session: Session, link: L, stranger: Option<Counted>) -> Self {
        let now = shared.now();
        let allowance = Allowance::new(shared.max_bytes_per_second, now);
        Self { shared, session, link, relays: Vec::new(), allowance, idle_since: now, stranger }
    }

    pub(crate) async fn run(mut self) -> io::Result<()> {
        let mut buffer = vec![0; framing::LONGEST];
        loop {
            let now = self.shared.now();
            let Some(wake) = self.act(now).await? else { return Ok(()) };
            let given_up = self.idle_since + PATIENCE;
            if self.relays.is_empty() && now >= given_up {
                return Ok(());
            }
            let until = if self.relays.is_empty() { wake.min(given_up) } else { wake };
            // Never at once, whatever the protocol says.
            let pause = until.saturating_duration_since(now).max(Duration::from_millis(1));
            tokio::select! {
                received = self.link.receive() => match received? {
                    Some(datagram) => self.hear(&datagram).await?,
                    None => return Ok(()),
                },
                index = readable(&self.relays) => self.hear_peers(index, &mut buffer).await?,
                () = time::sleep(pause) => {}
            }
        }
    }

    /// Does what the session wants done; answers when to come back, or that the client is to be given up.
    async fn act(&mut self, now: Instant) -> io::Result<Option<Instant>> {
        let wake = loop {
            match self.session.step(now) {
                Step::Wait(until) => break until,
                Step::Release(address) => {
                    self.relays.retain(|relay| relay.address != address);
                    self.idle_since = now;
                }
                Step::Allocate(family) => {
                    let allocated = self.allocate(family);
                    let is_half = allocated.is_err() && !self.relays.is_empty();
                    self.session.allocated(family, allocated, now);
                    if is_half {
                        // The protocol takes one half of what was asked for as nothing, but says that there is something.
                        return Ok(None);
                    }
                }
            }
        };
        while let Some(message) = self.session.next_message(now) {
            self.link.send(&message).await?;
        }
        Ok(Some(wake))
    }

    fn allocate(&mut self, family: AddressFamily) -> Result<SocketAddr, SocketAllocateError> {
        let is_family = |own: &&RelayAddress| own.local.is_ipv6() == (family == AddressFamily::IPV6);
        let own = self.shared.addresses.iter().find(is_family);
        let own = own.ok_or(SocketAllocateError::AddressFamilyNotSupported)?;
        let none_left = SocketAllocateError::InsufficientCapacity;
        let user = self.session.user().ok_or(none_left)?;
        let counted = self.shared.rules.quota.take(user).ok_or(none_left)?;
        let socket = self.bind(own.local).ok_or(none_left)?;
        let port = socket.local_addr().map_err(|_| none_left)?.port();
        let address = SocketAddr::new(own.advertised, port);
        let listed = self.shared.rules.peers.relays.list(address);
        self.relays.push(Relay { address, socket, _counted: counted, _listed: listed });
        Ok(address)
    }

    fn bind(&self, address: IpAddr) -> Option<UdpSocket> {
        let ports = &self.shared.rules.peers.relay_ports;
        let count = u64::from(ports.end() - ports.start()) + 1;
        (0..ATTEMPTS).find_map(|_| {
            let offset = u16::try_from(self.shared.environment.randomness().below(count)).ok()?;
            let socket = std::net::UdpSocket::bind((address, ports.start() + offset)).ok()?;
            socket.set_nonblocking(true).ok()?;
            UdpSocket::from_std(socket).ok()
        })
    }

    async fn hear(&mut self, datagram: &[u8]) -> io::Result<()> {
        let now = self.shared.now();
        let received = self.session.receive(datagram, self.shared.environment.now(), now);
        if self.session.user().is_some() {
            self.stranger = None;
        }
        match received {
            Some(Outgoing::ToClient(message)) => self.link.send(&message).await,
            Some(Outgoing::ToPeer { relay, peer, data }) => {
                let found = self.relays.iter().find(|known| known.address == relay);
                if let Some(found) = found
                    && self.allowance.take(data.len(), now)
                {
                    let peer = self.shared.rules.peers.seen_from_here(peer);
                    // What does not fit into the kernel's buffer, or finds no way, is lost.
                    match found.socket.try_send_to(&data, peer) {
                        Ok(sent) => self.shared.count(sent),
                        Err(error) => tracing::trace!(%error, %peer, "a datagram was not relayed"),
                    }
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Takes what peers sent to a relayed address.
    async fn hear_peers(&mut self, index: usize, buffer: &mut [u8]) -> io::Result<()> {
        for _ in 0..BATCH {
            let Some(relay) = self.relays.get(index) else { return Ok(()) };
            let (length, peer) = match relay.socket.try_recv_from(buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // Some peer cannot be reached.
                Err(_) => continue,
            };
            let now = self.shared.now();
            let peer = self.shared.rules.peers.seen_from_outside(peer);
            if !self.shared.rules.peers.may_be(peer) || !self.allowance.take(length, now) {
                continue;
            }
            let data = buffer.get(..length).unwrap_or_default();
            if let Some(message) = self.session.receive_from_peer(relay.address, peer, data, now) {
                self.shared.count(length);
                self.link.send(&message).await?;
            }
        }
        Ok(())
    }
}

/// Waits until peers have sent something, and answers to which of the relayed addresses.
async fn readable(relays: &[Relay]) -> usize {
    let one = async |relay: &Relay| {
        // An error shows when it is read.
        let _ = relay.socket.readable().await;
    };
    match relays {
        [] => std::future::pending().await,
        [first] => {
            one(first).await;
            0
        }
        // There is one a family.
        [first, second, ..] => tokio::select! {
            () = one(first) => 0,
            () = one(second) => 1,
        },
    }
}

use std::{
    collections::{HashMap, VecDeque},
    fmt, io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{self, Duration},
};

use bytes::Bytes;
use entente_environment::Environment;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UdpSocket},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
};
use turn_server_proto::types::{
    Instant,
    message::ALLOCATE,
    stun::message::{Message, MessageClass},
};

use crate::{
    PeerPolicy,
    client::{Client, Datagrams, Stream},
    framing,
    policy::{Peers, Relays},
    quota::{Counted, Quota},
    session::{self, Outgoing, Rules, Session},
};

/// Datagrams of one client that wait; more are lost, as on a full network.
const WAITING: usize = 256;
/// Those who send datagrams and have not shown yet who they are, who are remembered at a time and for how long. They cost no more than
/// the memory: under a flood the oldest are forgotten, and ask again.
const MOST_STRANGERS: usize = 4_096;
const STRANGERS_LAST: Duration = Duration::from_secs(30);
/// Connections from one address, or one /64 of IPv6, whose clients have not shown yet who they are.
const MOST_UNKNOWN_CONNECTIONS: usize = 32;
/// Before connections are accepted again, after that failed.
const PAUSE: Duration = Duration::from_millis(200);

/// An address at which relays are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayAddress {
    /// Of this machine.
    pub local: IpAddr,
    /// As others see it: another one if the network translates addresses one to one.
    pub advertised: IpAddr,
}

/// How the server works.
#[derive(Clone, Debug)]
pub struct TurnSettings {
    /// Where it listens and relays; one of each family is relayed from.
    pub addresses: Vec<RelayAddress>,
    /// The UDP and TCP port on which it listens; 0 lets the system choose.
    pub port: u16,
    /// The UDP ports that are given to clients.
    pub relay_ports: RangeInclusive<u16>,
    /// What passwords are for: the server's name.
    pub realm: String,
    /// From which passwords follow.
    pub secret: String,
    /// Clients at a time, with and without allocations.
    pub max_clients: usize,
    /// Relayed addresses of one user.
    pub max_allocations_per_user: usize,
    /// Bytes that are relayed for one client a second, both ways together.
    pub max_bytes_per_second: u64,
    /// To which peers.
    pub peers: PeerPolicy,
}

/// Why the server does not begin.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve TURN on {address}: {source}")]
pub struct StartError {
    address: SocketAddr,
    source: io::Error,
}

/// What the server does, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TurnFigures {
    /// Relayed addresses at the moment.
    pub allocations: u64,
    /// Packets that were relayed since the start, both ways.
    pub relayed_packets: u64,
    /// Bytes that were relayed since the start, both ways.
    pub relayed_bytes: u64,
}

/// A running server. Cheap to clone; it runs until all clones are gone.
#[derive(Clone)]
pub struct TurnServer {
    shared: Arc<Shared>,
    port: u16,
    _tasks: Arc<JoinSet<()>>,
}

/// What the server's tasks have in common.
pub(crate) struct Shared {
    pub(crate) rules: Arc<Rules>,
    pub(crate) addresses: Vec<RelayAddress>,
    pub(crate) environment: Environment,
    pub(crate) max_bytes_per_second: u64,
    places: Arc<Semaphore>,
    unknown_connections: Quota,
    start: time::Instant,
    relayed_packets: AtomicU64,
    relayed_bytes: AtomicU64,
}

impl Shared {
    /// The time as the protocol measures it.
    pub(crate) fn now(&self) -> Instant {
        let passed = self.environment.clock().monotonic().saturating_duration_since(self.start);
        Instant::from_nanos(i64::try_from(passed.as_nanos()).unwrap_or(i64::MAX))
    }

    pub(crate) fn count(&self, bytes: usize) {
        self.relayed_packets.fetch_add(1, Ordering::Relaxed);
        self.relayed_bytes.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// Counts a connection of whose client nobody knows who it is, unless there are too many from its network.
    fn unknown_connection(&self, client: SocketAddr) -> Option<Counted> {
        self.unknown_connections.take(&network(client.ip()).to_string().into())
    }
}

/// The network that one client has to itself: its address, or its /64 of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

impl TurnServer {
    /// Binds the sockets and begins to serve.
    pub async fn start(settings: TurnSettings, environment: Environment) -> Result<Self, StartError> {
        let peers = Peers {
            policy: settings.peers,
            own: settings.addresses.clone(),
            relay_ports: settings.relay_ports,
            relays: Relays::default(),
        };
        let rules = Rules {
            realm: settings.realm,
            secret: settings.secret,
            peers,
            quota: Quota::new(settings.max_allocations_per_user),
        };
        let shared = Arc::new(Shared {
            rules: Arc::new(rules),
            addresses: settings.addresses.clone(),
            start: environment.clock().monotonic(),
            environment,
            max_bytes_per_second: settings.max_bytes_per_second,
            places: Arc::new(Semaphore::new(settings.max_clients.min(Semaphore::MAX_PERMITS))),
            unknown_connections: Quota::new(MOST_UNKNOWN_CONNECTIONS),
            relayed_packets: AtomicU64::new(0),
            relayed_bytes: AtomicU64::new(0),
        });
        let mut port = settings.port;
        let mut tasks = JoinSet::new();
        for own in &settings.addresses {
            let address = SocketAddr::new(own.local, port);
            let failed = |source| StartError { address, source };
            let listener = TcpListener::bind(address).await.map_err(failed)?;
            port = listener.local_addr().map_err(failed)?.port();
            let socket = UdpSocket::bind((own.local, port)).await.map_err(failed)?;
            let server = socket.local_addr().map_err(failed)?;
            tasks.spawn(serve_datagrams(Arc::clone(&shared), Arc::new(socket), server));
            tasks.spawn(serve_connections(Arc::clone(&shared), listener));
        }
        tracing::info!(port, "TURN is served");
        Ok(Self { shared, port, _tasks: Arc::new(tasks) })
    }

    /// The port on which it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What it does, in numbers.
    pub fn figures(&self) -> TurnFigures {
        TurnFigures {
            allocations: u64::try_from(self.shared.rules.quota.total()).unwrap_or(u64::MAX),
            relayed_packets: self.shared.relayed_packets.load(Ordering::Relaxed),
            relayed_bytes: self.shared.relayed_bytes.load(Ordering::Relaxed),
        }
    }

    /// Serves a client on a connection that somebody else accepted, until it ends.
    pub async fn serve_stream(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        client: SocketAddr,
        server: SocketAddr,
    ) {
        serve_stream(Arc::clone(&self.shared), stream, client, server).await;
    }
}

impl fmt::Debug for TurnServer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TurnServer").field("port", &self.port).finish_non_exhaustive()
    }
}

async fn serve_stream(
    shared: Arc<Shared>,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    client: SocketAddr,
    server: SocketAddr,
) {
    let Some(stranger) = shared.unknown_connection(client) else {
        tracing::debug!(%client, "there are too many connections of unknown clients of TURN from there");
        return;
    };
    let Some(_place) = shared.place() else {
        tracing::warn!(%client, "there are too many clients of TURN");
        return;
    };
    let session = Session::new(Arc::clone(&shared.rules), client, server);
    if let Err(error) = Client::new(shared, session, Stream::new(stream), Some(stranger)).run().await {
        tracing::debug!(%error, %client, "a client's connection ended");
    }
}

async fn serve_connections(shared: Arc<Shared>, listener: TcpListener) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, client)) => {
                    let Ok(server) = stream.local_addr() else { continue };
                    // Media does not wait for a packet to fill.
                    if stream.set_nodelay(true).is_ok() {
                        clients.spawn(serve_stream(Arc::clone(&shared), stream, client, server));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "no connection can be accepted for TURN");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = clients.join_next() => {}
        }
    }
}

/// Sessions of those who send datagrams and have not shown yet who they are. The answer to their first request is in it, on which
/// their second depends.
#[derive(Default)]
struct Strangers {
    sessions: HashMap<SocketAddr, Session>,
    /// In the order in which they came.
    came: VecDeque<(Instant, SocketAddr)>,
}

impl Strangers {
    fn session(&mut self, shared: &Shared, client: SocketAddr, server: SocketAddr) -> &mut Session {
        let now = shared.now();
        while let Some((at, oldest)) = self.came.front().copied() {
            if self.came.len() < MOST_STRANGERS && now < at + STRANGERS_LAST {
                break;
            }
            self.came.pop_front();
            self.sessions.remove(&oldest);
        }
        self.sessions.entry(client).or_insert_with(|| {
            self.came.push_back((now, client));
            Session::new(Arc::clone(&shared.rules), client, server)
        })
    }

    fn take(&mut self, client: SocketAddr) -> Option<Session> {
        self.came.retain(|(_, other)| *other != client);
        self.sessions.remove(&client)
    }
}

/// Gives datagrams to the clients that sent them. Who asks for no allocation, or does not show who they are, has no client: an answer
/// is all they get.
async fn serve_datagrams(shared: Arc<Shared>, socket: Arc<UdpSocket>, server: SocketAddr) {
    let mut known: HashMap<SocketAddr, mpsc::Sender<Bytes>> = HashMap::new();
    let mut strangers = Strangers::default();
    let mut clients = JoinSet::new();
    let mut buffer = vec![0; framing::LONGEST];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            Some(_) = clients.join_next() => {
                known.retain(|_, sender| !sender.is_closed());
                continue;
            }
        };
        // An error is about an answer that somebody did not take.
        let Ok((length, client)) = received else { continue };
        let datagram = buffer.get(..length).unwrap_or_default();
        if let Some(sender) = known.get(&client).filter(|sender| !sender.is_closed()) {
            // A full queue: lost, as on a full network.
            let _ = sender.try_send(Bytes::copy_from_slice(datagram));
            continue;
        }
        if !framing::is_stun(datagram) {
            continue;
        }
        let Ok(message) = Message::from_bytes(datagram) else { continue };
        if let Some(answer) = session::binding_answer(&message, client) {
            let _ = socket.try_send_to(&answer, client);
            continue;
        }
        if !message.has_method(ALLOCATE) || !message.has_class(MessageClass::Request) {
            continue;
        }
        let session = strangers.session(&shared, client, server);
        let now = shared.now();
        if let Some(Outgoing::ToClient(answer)) = session.receive(datagram, shared.environment.now(), now) {
            let _ = socket.try_send_to(&answer, client);
        }
        if session.user().is_none() {
            while let Some(answer) = session.next_message(now) {
                let _ = socket.try_send_to(&answer, client);
            }
            continue;
        }
        // Without a place the request is not answered, and comes again.
        let Some(place) = shared.place() else { continue };
        let Some(session) = strangers.take(client) else { continue };
        let (sender, arrived) = mpsc::channel(WAITING);
        known.insert(client, sender);
        let link = Datagrams { socket: Arc::clone(&socket), client, arrived };
        let served = Client::new(Arc::clone(&shared), session, link, None).run();
        clients.spawn(async move {
            // A socket does not end.
            let _ = served.await;
            drop(place);
        });
    }
}

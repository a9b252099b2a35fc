//! Media over TCP, for clients whose network lets no datagrams through (RFC 6544): each connection carries datagrams, each behind its
//! length (RFC 4571).

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, tcp::OwnedReadHalf},
    sync::{Semaphore, mpsc},
    time::timeout,
};

use super::datagrams::{Datagram, MAXIMUM_DATAGRAM, Stream, user_name, worker_of};
use crate::{MediaAddress, Settings};

/// Connections at a time.
const MOST_CONNECTIONS: usize = 4_096;
/// Who does not say in this time whom it is for is hung up on.
const FIRST_WITHIN: Duration = Duration::from_secs(5);
/// Clients see to it that they are heard of more often.
const SILENCE: Duration = Duration::from_secs(60);
/// Who takes nothing for this time is gone.
const SEND_WITHIN: Duration = Duration::from_secs(10);
/// Datagrams that wait for a client; more are lost, as on a full network.
const WAITING: usize = 512;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 256;
/// Before connections are accepted again, after that failed.
const PAUSE: Duration = Duration::from_millis(200);

/// The listening sockets: one an address, on one port. What else is on the machine may have that port of other addresses.
pub(super) struct Listeners {
    sockets: Vec<TcpListener>,
    addresses: Vec<MediaAddress>,
    port: u16,
}

impl Listeners {
    /// `None` if media is not received over TCP.
    pub(super) fn bind(settings: &Settings) -> io::Result<Option<Self>> {
        let Some(mut port) = settings.tcp_port else { return Ok(None) };
        let mut locals: Vec<IpAddr> = settings.addresses.iter().map(|address| address.local).collect();
        locals.sort_unstable();
        locals.dedup();
        // One that stands for all of its family takes the place of the others.
        let all: Vec<IpAddr> = locals.iter().copied().filter(IpAddr::is_unspecified).collect();
        locals.retain(|local| all.contains(local) || !all.iter().any(|all| all.is_ipv6() == local.is_ipv6()));
        let mut sockets = Vec::new();
        for local in locals {
            let socket = listen(local, port)?;
            port = socket.local_addr()?.port();
            sockets.push(socket);
        }
        Ok(Some(Self { sockets, addresses: settings.addresses.clone(), port }))
    }

    /// What clients are told.
    pub(super) fn candidates(&self) -> Vec<SocketAddr> {
        self.addresses.iter().map(|address| address.candidate(self.port)).collect()
    }

    /// Goes on until all workers have ended.
    pub(super) fn run(self, workers: Vec<mpsc::Sender<Vec<Datagram>>>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
        let ended = runtime.and_then(|runtime| runtime.block_on(self.accept(workers)));
        if let Err(error) = ended {
            tracing::error!(%error, "media is no longer received over TCP");
        }
    }

    async fn accept(self, workers: Vec<mpsc::Sender<Vec<Datagram>>>) -> io::Result<()> {
        let shared = Arc::new(Shared {
            addresses: self.addresses,
            port: self.port,
            workers: workers.clone(),
            places: Semaphore::new(MOST_CONNECTIONS),
        });
        for socket in self.sockets {
            let listener = tokio::net::TcpListener::from_std(socket)?;
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                loop {
                    match listener.accept().await {
                        Ok((stream, source)) => {
                            tokio::spawn(serve(Arc::clone(&shared), stream, source));
                        }
                        Err(error) => {
                            tracing::warn!(%error, "no connection can be accepted for media");
                            tokio::time::sleep(PAUSE).await;
                        }
                    }
                }
            });
        }
        // With this the runtime ends, and everything on it.
        for worker in &workers {
            worker.closed().await;
        }
        Ok(())
    }
}

fn listen(address: IpAddr, port: u16) -> io::Result<TcpListener> {
    let address = SocketAddr::new(address, port);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// What all connections have in common.
struct Shared {
    addresses: Vec<MediaAddress>,
    port: u16,
    workers: Vec<mpsc::Sender<Vec<Datagram>>>,
    places: Semaphore,
}

async fn serve(shared: Arc<Shared>, stream: TcpStream, source: SocketAddr) {
    let Ok(_place) = shared.places.try_acquire() else {
        tracing::warn!(%source, "there are too many connections for media");
        return;
    };
    let Ok(reached) = stream.local_addr() else { return };
    let known = shared.addresses.iter().find(|address| address.local == reached.ip());
    let of_family = || shared.addresses.iter().find(|address| address.local.is_ipv6() == reached.is_ipv6());
    let Some(destination) = known.or_else(of_family).map(|address| address.candidate(shared.port)) else {
        return;
    };
    // Media does not wait for a packet to fill.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let (mut reading, mut writing) = stream.into_split();
    let (sender, mut waiting) = mpsc::channel::<Bytes>(WAITING);
    let speak = async {
        // Ends when no peer connection has use for it.
        while let Some(bytes) = waiting.recv().await {
            let Ok(length) = u16::try_from(bytes.len()) else { continue };
            let framed = [&length.to_be_bytes(), &bytes[..]].concat();
            if !matches!(timeout(SEND_WITHIN, writing.write_all(&framed)).await, Ok(Ok(()))) {
                return;
            }
        }
    };
    tokio::select! {
        () = listen_to(&shared, &mut reading, source, destination, sender) => {}
        () = speak => {}
    }
}

/// Hands what comes to the worker whose it is, by the ICE user name of the first message.
async fn listen_to(
    shared: &Shared,
    reading: &mut OwnedReadHalf,
    source: SocketAddr,
    destination: SocketAddr,
    sender: Stream,
) {
    let Ok(Some(first)) = timeout(FIRST_WITHIN, frame(reading)).await else { return };
    let worker = user_name(&first).and_then(worker_of).and_then(|worker| shared.workers.get(worker));
    let Some(worker) = worker else { return };
    // Whether there is use for the connection is the worker's to say: it keeps the sender or drops it.
    let weak = sender.downgrade();
    let datagram = Datagram { source, destination, bytes: first, stream: Some(sender) };
    if worker.send(vec![datagram]).await.is_err() {
        return;
    }
    while let Ok(Some(bytes)) = timeout(SILENCE, frame(reading)).await {
        let Some(stream) = weak.upgrade() else { return };
        let datagram = Datagram { source, destination, bytes, stream: Some(stream) };
        if worker.send(vec![datagram]).await.is_err() {
            return;
        }
    }
}

/// The next datagram; `None` at the end, or if what comes is none.
async fn frame(reading: &mut OwnedReadHalf) -> Option<Bytes> {
    let length = usize::from(reading.read_u16().await.ok()?);
    if length > MAXIMUM_DATAGRAM {
        return None;
    }
    let mut bytes = vec![0; length];
    reading.read_exact(&mut bytes).await.ok()?;
    Some(bytes.into())
}

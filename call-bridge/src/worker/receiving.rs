use std::{collections::HashMap, io, io::IoSliceMut, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use quinn_udp::{BATCH_SIZE, RecvMeta};
use tokio::{io::Interest, net::UdpSocket, sync::mpsc};

use super::{
    datagrams::{Datagram, MAXIMUM_DATAGRAM, Route, user_name, worker_of},
    sockets::Sockets,
};

/// What the kernel may put together from several datagrams, in bytes.
const BUFFER: usize = 64 * 1_024;
/// Addresses that are remembered; far more than participants.
const MAXIMUM_ROUTES: usize = 262_144;

/// Receives on one socket and hands datagrams to the workers whose they are.
pub(super) struct Receiver {
    sockets: Arc<Sockets>,
    index: usize,
    workers: Vec<mpsc::Sender<Vec<Datagram>>>,
    routes: std::sync::mpsc::Receiver<Route>,
    known: HashMap<SocketAddr, usize>,
}

impl Receiver {
    pub(super) fn new(
        sockets: Arc<Sockets>,
        index: usize,
        workers: Vec<mpsc::Sender<Vec<Datagram>>>,
        routes: std::sync::mpsc::Receiver<Route>,
    ) -> Self {
        Self { sockets, index, workers, routes, known: HashMap::new() }
    }

    /// Goes on until all workers have ended.
    pub(super) fn run(mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        let ended = runtime.and_then(|runtime| runtime.block_on(self.receive()));
        if let Err(error) = ended {
            tracing::error!(%error, "media is no longer received");
        }
    }

    async fn receive(&mut self) -> io::Result<()> {
        let sockets = self.sockets.clone();
        let Some(socket) = sockets.get(self.index) else { return Ok(()) };
        let readable = UdpSocket::from_std(socket.socket.try_clone()?)?;
        let mut buffers: Vec<Vec<u8>> = (0..BATCH_SIZE).map(|_| vec![0; BUFFER]).collect();
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let all_ended = |workers: &[mpsc::Sender<_>]| workers.iter().all(mpsc::Sender::is_closed);
        while !all_ended(&self.workers) {
            tokio::select! {
                readable = readable.readable() => readable?,
                () = ended(&self.workers) => return Ok(()),
            }
            let mut slices: Vec<IoSliceMut<'_>> =
                buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
            let received = readable.try_io(Interest::READABLE, || {
                socket.state.recv((&socket.socket).into(), &mut slices, &mut metas)
            });
            match received {
                Ok(count) => {
                    let received = metas.iter().zip(&buffers).take(count);
                    self.distribute(received, socket.is_ipv6());
                }
                // An ICMP message about a client that went away is no error of the socket.
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn distribute<'a>(&mut self, received: impl Iterator<Item = (&'a RecvMeta, &'a Vec<u8>)>, ipv6: bool) {
        while let Ok(route) = self.routes.try_recv() {
            self.learn(route);
        }
        let mut batches: Vec<Vec<Datagram>> = self.workers.iter().map(|_| Vec::new()).collect();
        for (meta, buffer) in received {
            let Some(destination) = self.sockets.advertised(meta.dst_ip, ipv6) else { continue };
            let bytes = buffer.get(..meta.len).unwrap_or_default();
            for datagram in bytes.chunks(meta.stride.max(1)).filter(|bytes| bytes.len() <= MAXIMUM_DATAGRAM) {
                let Some(batch) = self.worker(meta.addr, datagram).and_then(|worker| batches.get_mut(worker))
                else {
                    continue;
                };
                let bytes = Bytes::copy_from_slice(datagram);
                batch.push(Datagram { source: meta.addr, destination, bytes, stream: None });
            }
        }
        for (worker, batch) in self.workers.iter().zip(batches) {
            if !batch.is_empty() && worker.try_send(batch).is_err() {
                tracing::debug!("a worker is too busy for what comes in");
            }
        }
    }

    fn learn(&mut self, route: Route) {
        if !route.add {
            if self.known.get(&route.address) == Some(&route.worker) {
                self.known.remove(&route.address);
            }
        } else if self.known.len() < MAXIMUM_ROUTES {
            self.known.insert(route.address, route.worker);
        }
    }

    fn worker(&self, source: SocketAddr, datagram: &[u8]) -> Option<usize> {
        if self.workers.len() == 1 {
            return Some(0);
        }
        match user_name(datagram) {
            Some(name) => worker_of(name),
            None => self.known.get(&source).copied(),
        }
    }
}

async fn ended(workers: &[mpsc::Sender<Vec<Datagram>>]) {
    for worker in workers {
        worker.closed().await;
    }
}

fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted, NetworkUnreachable, WouldBlock,
    };
    matches!(
        error.kind(),
        ConnectionRefused | ConnectionReset | HostUnreachable | Interrupted | NetworkUnreachable | WouldBlock
    )
}

use std::{
    future::poll_fn,
    io::{self, IoSliceMut},
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    task::Poll,
};

use quinn_udp::{BATCH_SIZE, RecvMeta};
use tokio::io::{Interest, unix::AsyncFd};

use super::{datagrams::MAXIMUM_DATAGRAM, sockets::Sockets};

/// What the kernel may put together from several datagrams, in bytes.
const BUFFER: usize = 64 * 1_024;
/// Times that one socket is read before the others, and everything else, have their turn.
const READS: usize = 8;

/// What a worker receives datagrams with.
pub(super) struct Receiver {
    sockets: Arc<Sockets>,
    /// In the order of the sockets' families.
    readable: Vec<AsyncFd<OwnedFd>>,
    buffers: Vec<Vec<u8>>,
    metas: [RecvMeta; BATCH_SIZE],
}

impl Receiver {
    /// Needs the runtime on which it is used.
    pub(super) fn new(sockets: Arc<Sockets>) -> io::Result<Self> {
        let readable =
            sockets.families().iter().map(|socket| watch(socket.socket.as_fd().try_clone_to_owned()?));
        let readable = readable.collect::<io::Result<_>>()?;
        let buffers = (0..BATCH_SIZE).map(|_| vec![0; BUFFER]).collect();
        Ok(Self { sockets, readable, buffers, metas: [RecvMeta::default(); BATCH_SIZE] })
    }

    /// Waits until there is something to receive.
    pub(super) async fn readable(&self) -> io::Result<()> {
        poll_fn(|context| {
            for readable in &self.readable {
                if let Poll::Ready(ready) = readable.poll_read_ready(context) {
                    return Poll::Ready(ready.map(drop));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Hands on what has come: from where, to which address of ours, and what. What is left makes [`Self::readable`] return at once.
    pub(super) fn receive(&mut self, mut take: impl FnMut(SocketAddr, SocketAddr, &[u8])) -> io::Result<()> {
        for (socket, readable) in self.sockets.families().iter().zip(&self.readable) {
            for _ in 0..READS {
                let mut slices: Vec<IoSliceMut<'_>> =
                    self.buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
                let received = readable.try_io(Interest::READABLE, |_| {
                    socket.state.recv((&socket.socket).into(), &mut slices, &mut self.metas)
                });
                let count = match received {
                    Ok(count) => count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // An ICMP message about a client that went away is no error of the socket.
                    Err(error) if is_passing(&error) => continue,
                    Err(error) => return Err(error),
                };
                for (meta, buffer) in self.metas.iter().zip(&self.buffers).take(count) {
                    let Some(destination) = self.sockets.advertised(meta.dst_ip, socket.is_ipv6()) else {
                        continue;
                    };
                    let bytes = buffer.get(..meta.len).unwrap_or_default();
                    for datagram in bytes.chunks(meta.stride.max(1)) {
                        if datagram.len() <= MAXIMUM_DATAGRAM {
                            take(meta.addr, destination, datagram);
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// To be told as well whenever something can be sent, as the runtime's own sockets are, would be to be woken by whatever was sent.
#[expect(
    deprecated,
    reason = "it is about descriptors that are closed by others; this one belongs to what watches it"
)]
fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}

fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted, NetworkUnreachable,
    };
    matches!(
        error.kind(),
        ConnectionRefused | ConnectionReset | HostUnreachable | Interrupted | NetworkUnreachable
    )
}

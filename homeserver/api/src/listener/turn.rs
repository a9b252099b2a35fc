use std::{future::Future, io, pin::Pin, time::Duration};

use axum_server::accept::Accept;
use entente_turn::{TurnServer, begins_stun};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::TcpStream,
};

use super::begun::Begun;

/// Who says nothing at all for this long is hung up on; what comes after has times of its own.
const FIRST_BYTE_WITHIN: Duration = Duration::from_secs(30);

/// Accepts connections, and gives those to TURN that speak it, by their first byte.
#[derive(Clone, Debug)]
pub(super) struct Divert<A> {
    pub(super) inner: A,
    /// `None`: all are for HTTP.
    pub(super) turn: Option<TurnServer>,
}

impl<A, S> Accept<TcpStream, S> for Divert<A>
where
    A: Accept<TcpStream, S>,
    A::Future: Send + 'static,
    A::Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A::Service: Send + 'static,
{
    type Stream = Begun<A::Stream>;
    type Service = A::Service;
    type Future = Pin<Box<dyn Future<Output = io::Result<(Self::Stream, A::Service)>> + Send>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let addresses = stream.peer_addr().and_then(|client| Ok((client, stream.local_addr()?)));
        let accepted = self.inner.accept(stream, service);
        let turn = self.turn.clone();
        Box::pin(async move {
            let (client, server) = addresses?;
            let (mut stream, service) = accepted.await?;
            let Some(turn) = turn else { return Ok((Begun::for_http(None, stream), service)) };
            let first = tokio::time::timeout(FIRST_BYTE_WITHIN, stream.read_u8());
            let first = first.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            if !begins_stun(first) {
                return Ok((Begun::for_http(Some(first), stream), service));
            }
            tokio::spawn(async move {
                turn.serve_stream(Begun::new(first, stream), client, server).await;
                // The connection's place is in it.
                drop(service);
            });
            Err(io::Error::other("the connection is for TURN"))
        })
    }
}

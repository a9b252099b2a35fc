use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum_server::accept::Accept;
use entente_turn::{TurnServer, begins_stun};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
};

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
            let Some(turn) = turn else { return Ok((Begun { first: None, stream }, service)) };
            let first = tokio::time::timeout(FIRST_BYTE_WITHIN, stream.read_u8());
            let first = first.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            let stream = Begun { first: Some(first), stream };
            if !begins_stun(first) {
                return Ok((stream, service));
            }
            tokio::spawn(async move {
                turn.serve_stream(stream, client, server).await;
                // The connection's place is in it.
                drop(service);
            });
            Err(io::Error::other("the connection is for TURN"))
        })
    }
}

/// A connection whose first byte was looked at.
#[derive(Debug)]
pub(super) struct Begun<S> {
    first: Option<u8>,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(first) = self.first.filter(|_| buffer.remaining() > 0) else {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        };
        buffer.put_slice(&[first]);
        self.first = None;
        // What came with it, if it is there: whoever reads should see as much of the beginning as there is.
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Pending | Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Begun<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn what_was_looked_at_is_read_all_the_same() {
        let (mut near, far) = tokio::io::duplex(64);
        near.write_all(b"ET / HTTP/1.1").await.unwrap();
        let mut begun = Begun { first: Some(b'G'), stream: far };
        let mut buffer = [0; 5];
        assert_eq!(begun.read(&mut buffer).await.unwrap(), 5);
        assert_eq!(&buffer, b"GET /");
        begun.write_all(b"answer").await.unwrap();
        drop(near);
        let mut rest = Vec::new();
        begun.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b" HTTP/1.1");
        // Nothing more is there to come: the byte alone.
        let mut begun = Begun { first: Some(b'G'), stream: tokio::io::duplex(1).0 };
        assert_eq!(begun.read(&mut buffer).await.unwrap(), 1);
    }
}

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What an HTTP/2 connection begins with (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection whose beginning was looked at.
#[derive(Debug)]
pub(super) struct Begun<S> {
    stream: S,
    /// The first `length` bytes, which are yet to be read.
    first: [u8; PREFACE.len()],
    length: usize,
    /// Whether the first who reads only wants to know if it is HTTP/2.
    is_asked_for_version: bool,
}

impl<S> Begun<S> {
    /// A connection of which one byte was read.
    pub(super) fn new(first: u8, stream: S) -> Self {
        let mut begun = Self { stream, first: [0; PREFACE.len()], length: 1, is_asked_for_version: false };
        begun.first[0] = first;
        begun
    }

    /// A connection for `hyper-util`, which tells the versions of HTTP apart by reading as many bytes as the beginning of HTTP/2 has.
    /// Had it these, `hyper` would then lack them in its buffer, and make that twice as large to read on. So where they are not
    /// the beginning of HTTP/2 it is given nothing, by which it knows that too, and `hyper` reads them with what follows.
    pub(super) fn for_http(first: Option<u8>, stream: S) -> Self {
        let begun = Self::new(first.unwrap_or_default(), stream);
        Self { length: usize::from(first.is_some()), is_asked_for_version: true, ..begun }
    }

    fn begins_http2(&self) -> bool {
        PREFACE.starts_with(&self.first[..self.length])
    }
}

impl<S: AsyncRead + Unpin> Begun<S> {
    /// Looks at the beginning, as much of it as is there.
    fn poll_beginning(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut more = ReadBuf::new(&mut self.first[self.length..]);
        match Pin::new(&mut self.stream).poll_read(context, &mut more) {
            Poll::Ready(read) => read?,
            Poll::Pending if self.length == 0 => return Poll::Pending,
            Poll::Pending => {}
        }
        self.length += more.filled().len();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_asked_for_version && buffer.remaining() == PREFACE.len() {
            ready!(self.poll_beginning(context))?;
            self.is_asked_for_version = false;
            if !self.begins_http2() {
                return Poll::Ready(Ok(()));
            }
        }
        if self.length == 0 || buffer.remaining() == 0 {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let given = self.length.min(buffer.remaining());
        buffer.put_slice(&self.first[..given]);
        self.first.copy_within(given.., 0);
        self.length -= given;
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
    use axum::{Router, routing::get};
    use hyper_util::{
        rt::{TokioExecutor, TokioIo},
        server::conn::auto,
        service::TowerToHyperService,
    };
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_was_looked_at_is_read_all_the_same() {
        let (mut near, far) = tokio::io::duplex(64);
        near.write_all(b"ET / HTTP/1.1").await.unwrap();
        let mut begun = Begun::new(b'G', far);
        let mut buffer = [0; 5];
        assert_eq!(begun.read(&mut buffer).await.unwrap(), 5);
        assert_eq!(&buffer, b"GET /");
        begun.write_all(b"answer").await.unwrap();
        drop(near);
        let mut rest = Vec::new();
        begun.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b" HTTP/1.1");
        // Nothing more is there to come: the byte alone.
        let mut begun = Begun::new(b'G', tokio::io::duplex(1).0);
        assert_eq!(begun.read(&mut buffer).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn who_asks_for_the_version_is_given_the_beginning_of_http2_only() {
        for (first, rest, given) in [
            (None, &b"GET /_matrix/client/versions HTTP/1.1\r\n\r\n"[..], 0),
            (Some(b'P'), b"OST / HTTP/1.1\r\n\r\n", 0),
            (None, b"G", 0),
            (None, &PREFACE[..], 24),
            (Some(b'P'), &PREFACE[1..], 24),
            // As long as it can become one.
            (None, b"PR", 2),
            (Some(b'P'), b"", 1),
        ] {
            let (mut near, far) = tokio::io::duplex(64);
            near.write_all(rest).await.unwrap();
            let mut begun = Begun::for_http(first, far);
            let mut buffer = [0; 24];
            assert_eq!(begun.read(&mut buffer).await.unwrap(), given, "{rest:?}");
            drop(near);
            let mut all = buffer[..given].to_vec();
            begun.read_to_end(&mut all).await.unwrap();
            let expected: Vec<u8> = first.into_iter().chain(rest.iter().copied()).collect();
            assert_eq!(all, expected, "nothing is lost");
        }
    }

    /// What is relied upon is the way in which `hyper-util` asks.
    #[tokio::test]
    async fn both_versions_are_served() {
        for (asked, answered) in [
            (&b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"[..], &b"HTTP/1.1 200 OK"[..]),
            // The settings of HTTP/2, and those of the other side.
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", b"\0\0"),
        ] {
            let (mut near, far) = tokio::io::duplex(4_096);
            let serving = tokio::spawn(async move {
                let router = Router::new().route("/", get(async || "hello"));
                let io = TokioIo::new(Begun::for_http(None, far));
                let builder = auto::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection_with_upgrades(io, TowerToHyperService::new(router)).await;
            });
            near.write_all(asked).await.unwrap();
            let mut answer = vec![0; answered.len()];
            near.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer, answered);
            serving.abort();
        }
    }
}

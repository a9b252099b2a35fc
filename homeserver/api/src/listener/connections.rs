use std::{future::Future, io, pin::Pin, sync::Arc, time::Duration};

use axum::{Extension, middleware::AddExtension};
use axum_server::accept::Accept;
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tower::Layer;

/// Bounds on connections.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionSettings {
    /// The most connections on all listeners together; more are closed at once.
    pub max_connections: usize,
    /// How long a client may take for the TLS handshake, and then for the header of each request.
    pub header_timeout: Duration,
    /// The most bytes of a request's header, at least 8 KiB.
    pub max_header_size: usize,
}

/// The places for connections, of all listeners together.
#[derive(Clone, Debug)]
pub(super) struct Places {
    settings: ConnectionSettings,
    places: Arc<Semaphore>,
}

impl Places {
    pub(super) fn new(settings: ConnectionSettings) -> Self {
        let places = Semaphore::new(settings.max_connections.min(Semaphore::MAX_PERMITS));
        Self { settings, places: Arc::new(places) }
    }

    pub(super) fn settings(&self) -> ConnectionSettings {
        self.settings
    }

    /// An acceptor that gives each connection a place until it ends.
    pub(super) fn admit<A>(&self, inner: A) -> Admit<A> {
        Admit { inner, places: self.clone() }
    }
}

/// Accepts connections while there are places.
#[derive(Clone, Debug)]
pub(super) struct Admit<A> {
    inner: A,
    places: Places,
}

/// A connection's place. The connection's service owns it, and is dropped with the connection.
type Place = Arc<OwnedSemaphorePermit>;

impl<A, S> Accept<TcpStream, S> for Admit<A>
where
    A: Accept<TcpStream, AddExtension<S, Place>>,
    A::Future: Send + 'static,
    A::Stream: Send,
    A::Service: Send,
{
    type Stream = A::Stream;
    type Service = A::Service;
    type Future = Pin<Box<dyn Future<Output = io::Result<(A::Stream, A::Service)>> + Send>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let Ok(place) = Arc::clone(&self.places.places).try_acquire_owned() else {
            return Box::pin(async { Err(io::Error::other("there are too many connections")) });
        };
        // Answers are written whole: waiting to fill a packet only delays them.
        if let Err(error) = stream.set_nodelay(true) {
            return Box::pin(async { Err(error) });
        }
        let accepted = self.inner.accept(stream, Extension(Arc::new(place)).layer(service));
        let patience = self.places.settings.header_timeout;
        Box::pin(async move { tokio::time::timeout(patience, accepted).await? })
    }
}

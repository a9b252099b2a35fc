use std::{
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    DataChannel, MediaPacket, Mid, Offer, OfferChanges, Output, Renumbered, Rid, Transport, TransportError,
    TransportEvent,
};

/// A peer connection that takes nobody else down: if its stack panics over what came in, it alone is over.
pub(crate) struct Guarded<T> {
    inner: Option<T>,
    told: bool,
    now: Instant,
}

impl<T: Transport> Guarded<T> {
    /// Guards a peer connection.
    pub(crate) fn new(inner: T, now: Instant) -> Self {
        Self { inner: Some(inner), told: false, now }
    }

    /// The peer connection, unless it is over.
    pub(crate) fn inner(&self) -> Option<&T> {
        self.inner.as_ref()
    }

    fn with<R>(&mut self, call: impl FnOnce(&mut T) -> R) -> Option<R> {
        let inner = self.inner.as_mut()?;
        // What it left half done is dropped with it.
        let result = catch_unwind(AssertUnwindSafe(|| call(inner)));
        if result.is_err() {
            tracing::error!("a peer connection panicked and was ended");
            // Dropping may panic as well.
            let broken = self.inner.take();
            let _ = catch_unwind(AssertUnwindSafe(|| drop(broken)));
        }
        result.ok()
    }
}

impl<T: Transport> Transport for Guarded<T> {
    fn answer(&mut self, offer: &str) -> Result<String, TransportError> {
        self.with(|inner| inner.answer(offer)).unwrap_or(Err(TransportError::Broken))
    }

    fn offer(&mut self, changes: &OfferChanges) -> Option<Offer> {
        self.with(|inner| inner.offer(changes)).flatten()
    }

    fn accept_answer(&mut self, answer: &str) -> Result<(), TransportError> {
        self.with(|inner| inner.accept_answer(answer)).unwrap_or(Err(TransportError::Broken))
    }

    fn receive(&mut self, now: Instant, source: SocketAddr, destination: SocketAddr, bytes: &[u8]) {
        self.now = now;
        self.with(|inner| inner.receive(now, source, destination, bytes));
    }

    fn receive_by_stream(&mut self, now: Instant, source: SocketAddr, destination: SocketAddr, bytes: &[u8]) {
        self.now = now;
        self.with(|inner| inner.receive_by_stream(now, source, destination, bytes));
    }

    fn advance(&mut self, now: Instant) {
        self.now = now;
        self.with(|inner| inner.advance(now));
    }

    fn poll(&mut self) -> Output {
        if let Some(output) = self.with(Transport::poll) {
            return output;
        }
        if std::mem::replace(&mut self.told, true) {
            Output::Wait(self.now + Duration::from_secs(3_600))
        } else {
            Output::Event(TransportEvent::Closed)
        }
    }

    fn send(&mut self, mid: Mid, packet: &MediaPacket, renumbered: Renumbered) {
        self.with(|inner| inner.send(mid, packet, renumbered));
    }

    fn request_keyframe(&mut self, mid: Mid, rid: Option<Rid>) {
        self.with(|inner| inner.request_keyframe(mid, rid));
    }

    fn renew_stream(&mut self, mid: Mid) {
        self.with(|inner| inner.renew_stream(mid));
    }

    fn forget_sent(&mut self, mid: Mid) {
        self.with(|inner| inner.forget_sent(mid));
    }

    fn send_data(&mut self, channel: DataChannel, bytes: &Arc<[u8]>) -> bool {
        // Who is over reads nothing, but not slowly.
        self.with(|inner| inner.send_data(channel, bytes)).unwrap_or(true)
    }

    fn renew_data(&mut self) {
        self.with(Transport::renew_data);
    }

    fn set_bitrates(&mut self, next: u64, desired: u64) {
        self.with(|inner| inner.set_bitrates(next, desired));
    }

    fn close(&mut self) {
        self.with(Transport::close);
    }
}

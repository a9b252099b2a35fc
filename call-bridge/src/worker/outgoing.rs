use std::{net::SocketAddr, sync::Arc};

use super::sockets::Sockets;

/// What the kernel takes at once, in bytes.
const MAXIMUM_BATCH: usize = 60_000;

/// Gathers datagrams of one size to one address, so that they go out with one system call.
pub(super) struct Outgoing {
    sockets: Arc<Sockets>,
    max_segments: usize,
    addresses: Option<(SocketAddr, SocketAddr)>,
    segment: usize,
    count: usize,
    buffer: Vec<u8>,
    /// Datagrams since that was last asked.
    sent: usize,
}

impl Outgoing {
    pub(super) fn new(sockets: Arc<Sockets>) -> Self {
        let max_segments = sockets.max_segments();
        let buffer = Vec::with_capacity(MAXIMUM_BATCH);
        Self { sockets, max_segments, addresses: None, segment: 0, count: 0, buffer, sent: 0 }
    }

    pub(super) fn push(&mut self, source: SocketAddr, destination: SocketAddr, bytes: &[u8]) {
        let fits = self.addresses == Some((source, destination))
            && bytes.len() <= self.segment
            && self.count < self.max_segments
            && self.buffer.len() + bytes.len() <= MAXIMUM_BATCH;
        if !fits {
            self.flush();
            self.addresses = Some((source, destination));
            self.segment = bytes.len();
        }
        self.buffer.extend_from_slice(bytes);
        self.count += 1;
        // Only the last may be smaller.
        if bytes.len() < self.segment {
            self.flush();
        }
    }

    pub(super) fn flush(&mut self) {
        if let Some((source, destination)) = self.addresses.take() {
            self.sent += self.count;
            let segment_size = (self.count > 1).then_some(self.segment);
            self.sockets.send(source, destination, &self.buffer, segment_size);
        }
        self.buffer.clear();
        self.count = 0;
        self.segment = 0;
    }

    /// How many datagrams went out since this was last asked.
    pub(super) fn take_sent(&mut self) -> usize {
        std::mem::take(&mut self.sent)
    }
}

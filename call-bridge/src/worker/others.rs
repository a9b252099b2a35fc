use std::{collections::HashMap, net::SocketAddr, sync::mpsc::Receiver};

use bytes::Bytes;
use tokio::sync::mpsc::Sender;

use super::datagrams::{Datagram, Route, user_name, worker_of};

/// Addresses that are remembered; far more than participants.
const MAXIMUM_ROUTES: usize = 262_144;

/// All workers, as one of them sees them. The kernel divides what comes among them by where it comes from, so most of it comes to
/// one that does not have the room, who hands it on.
pub(super) struct Others {
    workers: Vec<Sender<Vec<Datagram>>>,
    own: usize,
    /// What they tell of where their peer connections are.
    routes: Receiver<Route>,
    known: HashMap<SocketAddr, usize>,
    /// For each worker, what is to be handed to it.
    batches: Vec<Vec<Datagram>>,
}

impl Others {
    pub(super) fn new(workers: Vec<Sender<Vec<Datagram>>>, own: usize, routes: Receiver<Route>) -> Self {
        let batches = workers.iter().map(|_| Vec::new()).collect();
        Self { workers, own, routes, known: HashMap::new(), batches }
    }

    /// Takes a datagram that is for none of the worker's own peer connections.
    pub(super) fn take(&mut self, source: SocketAddr, destination: SocketAddr, bytes: &[u8]) {
        if self.workers.len() == 1 {
            return;
        }
        let worker = match user_name(bytes) {
            Some(name) => worker_of(name),
            None => self.known.get(&source).copied(),
        };
        let other = worker.filter(|worker| *worker != self.own);
        if let Some(batch) = other.and_then(|other| self.batches.get_mut(other)) {
            let bytes = Bytes::copy_from_slice(bytes);
            batch.push(Datagram { source, destination, bytes, stream: None });
        }
    }

    /// Hands over what was taken.
    pub(super) fn hand_over(&mut self) {
        for (worker, batch) in self.workers.iter().zip(&mut self.batches) {
            if !batch.is_empty() && worker.try_send(std::mem::take(batch)).is_err() {
                tracing::debug!("a worker is too busy for what comes in");
            }
        }
    }

    /// Learns where the others' peer connections are by now.
    pub(super) fn learn(&mut self) {
        while let Ok(route) = self.routes.try_recv() {
            if !route.add {
                if self.known.get(&route.address) == Some(&route.worker) {
                    self.known.remove(&route.address);
                }
            } else if self.known.len() < MAXIMUM_ROUTES {
                self.known.insert(route.address, route.worker);
            }
        }
    }
}

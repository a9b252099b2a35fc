//! Events that come at the same time for one room, from whatever servers: what waits while some are being written is written next, all
//! of it in one transaction.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use entente_rooms::{Received, VerifiedPdu};
use parking_lot::Mutex;
use ruma::{OwnedEventId, OwnedRoomId, RoomId};
use tokio::sync::oneshot::{self, error::TryRecvError};

use crate::{FederationError, SharedRooms};

/// Events that are written together, unless one server sends more at once.
const MOST_TOGETHER: usize = 200;

/// Events of one room in their order, of which the first were taken in.
#[derive(Clone)]
pub(crate) struct Run {
    pdus: Arc<[VerifiedPdu]>,
    taken: usize,
}

impl Run {
    pub(crate) fn new(pdus: Vec<VerifiedPdu>) -> Self {
        Self { pdus: pdus.into(), taken: 0 }
    }

    /// Those that are yet to be taken in.
    pub(crate) fn rest(&self) -> &[VerifiedPdu] {
        self.pdus.get(self.taken..).unwrap_or_default()
    }

    /// Takes the next one out.
    pub(crate) fn take_next(&mut self) -> Option<VerifiedPdu> {
        let next = self.rest().first().cloned()?;
        self.taken += 1;
        Some(next)
    }
}

/// What waits to be written, by room.
#[derive(Default)]
pub(crate) struct Arrivals {
    rooms: Mutex<HashMap<OwnedRoomId, VecDeque<Arrival>>>,
}

/// A run whose server waits for what became of it.
struct Arrival {
    run: Run,
    answer: oneshot::Sender<Vec<Received>>,
}

/// A place among those that wait, which whoever gives up leaves again.
struct Waiting<'a> {
    arrivals: &'a Arrivals,
    room_id: &'a RoomId,
    answer: oneshot::Receiver<Vec<Received>>,
}

impl Arrivals {
    fn add<'a>(&'a self, room_id: &'a RoomId, run: Run) -> Waiting<'a> {
        let (sender, answer) = oneshot::channel();
        let arrival = Arrival { run, answer: sender };
        self.rooms.lock().entry(room_id.to_owned()).or_default().push_back(arrival);
        Waiting { arrivals: self, room_id, answer }
    }

    /// Those that have waited longest.
    fn take(&self, room_id: &RoomId) -> Vec<Arrival> {
        let mut rooms = self.rooms.lock();
        let Some(waiting) = rooms.get_mut(room_id) else { return Vec::new() };
        let (mut together, mut count) = (Vec::new(), 0);
        while let Some(first) = waiting.pop_front() {
            count += first.run.rest().len();
            if count > MOST_TOGETHER && !together.is_empty() {
                waiting.push_front(first);
                break;
            }
            together.push(first);
        }
        if waiting.is_empty() {
            rooms.remove(room_id);
        }
        together
    }

    /// Rooms for which something waits.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.rooms.lock().len()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.answer.close();
        let mut rooms = self.arrivals.rooms.lock();
        if let Some(waiting) = rooms.get_mut(self.room_id) {
            waiting.retain(|arrival| !arrival.answer.is_closed());
            if waiting.is_empty() {
                rooms.remove(self.room_id);
            }
        }
    }
}

impl SharedRooms {
    /// Takes in what can be taken in of a run without asking anybody for anything, together with what else waits for the room. Answers
    /// what became of these events, and leaves the others in the run. They are on disk when this returns.
    pub(crate) async fn take_together(
        &self,
        room_id: &RoomId,
        run: &mut Run,
    ) -> Result<Vec<(OwnedEventId, Received)>, FederationError> {
        if run.rest().is_empty() {
            return Ok(Vec::new());
        }
        let received = self.write_together(room_id, run).await?;
        let ids = run.rest().iter().map(|pdu| pdu.event_id.clone());
        let outcomes: Vec<_> = ids.zip(received).collect();
        run.taken += outcomes.len();
        Ok(outcomes)
    }

    async fn write_together(&self, room_id: &RoomId, run: &Run) -> Result<Vec<Received>, FederationError> {
        let rooms = &self.inner.rooms;
        let mut waiting = self.inner.arrivals.add(room_id, run.clone());
        let _turn = self.inner.writing.take(room_id.as_str()).await;
        loop {
            match waiting.answer.try_recv() {
                Ok(received) => return Ok(received),
                Err(TryRecvError::Empty) => {}
                // Whoever took it along failed, or went away.
                Err(TryRecvError::Closed) => {
                    let alone = rooms.receive_together(room_id, &[run.rest()]).await?;
                    return Ok(alone.into_iter().next().unwrap_or_default());
                }
            }
            let together = self.inner.arrivals.take(room_id);
            let runs: Vec<&[VerifiedPdu]> = together.iter().map(|arrival| arrival.run.rest()).collect();
            let received = rooms.receive_together(room_id, &runs).await?;
            for (arrival, received) in together.into_iter().zip(received) {
                // Who gave up waiting asks again.
                let _ = arrival.answer.send(received);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::room_id;

    use super::*;

    #[tokio::test]
    async fn who_gives_up_leaves_nothing_behind() {
        let (arrivals, room) = (Arrivals::default(), room_id!("!room:example.org"));
        let first = arrivals.add(room, Run::new(Vec::new()));
        let mut second = arrivals.add(room, Run::new(Vec::new()));
        drop(first);
        let together = arrivals.take(room);
        assert_eq!(together.len(), 1, "the one that gave up is not among them");
        assert_eq!(arrivals.len(), 0);
        drop(together);
        assert_eq!(second.answer.try_recv(), Err(TryRecvError::Closed), "it learns that it was not written");
        let third = arrivals.add(room, Run::new(Vec::new()));
        drop(third);
        assert_eq!(arrivals.len(), 0);
    }
}

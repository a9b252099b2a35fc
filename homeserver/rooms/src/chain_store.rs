//! The auth chains of a room in the store, with what a composer adds to them.

use std::collections::{BTreeMap, HashMap};

use entente_storage::{Bytes, Snapshot, Transaction};

use crate::{
    RoomError, RoomNumber,
    auth_chain::{Assignment, ChainError, ChainPosition, ChainRow, ChainSource, InvalidChainRow, Span},
    rows,
    state::EventNumber,
};

/// What was added to the chains of a room and is not stored yet.
#[derive(Debug, Default)]
pub(crate) struct NewChains {
    positions: HashMap<EventNumber, ChainPosition>,
    rows: BTreeMap<(EventNumber, u32), ChainRow>,
}

/// The auth chains of a room as a snapshot shows them, and what was added.
pub(crate) struct ChainStore<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) room: RoomNumber,
    pub(crate) new: &'a NewChains,
}

impl NewChains {
    /// Adds an event.
    pub(crate) fn add(&mut self, event: EventNumber, assignment: Assignment) {
        let Assignment { position, row } = assignment;
        self.positions.insert(event, position);
        self.rows.insert((position.chain.0, position.sequence), row);
    }

    /// Writes what was added.
    pub(crate) fn put_in(&self, transaction: &mut Transaction, room: RoomNumber) {
        for (event, position) in &self.positions {
            transaction.put(&rows::CHAIN_POSITIONS, (room.0, event.0), &Bytes::from(position.encode()));
        }
        for ((chain, sequence), row) in &self.rows {
            let key = (room.0, chain.0, u64::from(*sequence));
            transaction.put(&rows::CHAIN_ROWS, key, &Bytes::from(row.encode()));
        }
    }
}

impl ChainSource for ChainStore<'_> {
    type Error = RoomError;

    async fn positions(&self, events: &[EventNumber]) -> Result<Vec<Option<ChainPosition>>, RoomError> {
        let unknown: Vec<EventNumber> =
            events.iter().filter(|event| !self.new.positions.contains_key(event)).copied().collect();
        let stored = if unknown.is_empty() {
            Vec::new()
        } else {
            let keys = unknown.iter().map(|event| (self.room.0, event.0));
            self.snapshot.get_many(&rows::CHAIN_POSITIONS, keys).await?
        };
        let mut stored = stored.into_iter();
        let position = |event: &EventNumber| match self.new.positions.get(event) {
            Some(position) => Ok(Some(*position)),
            None => stored.next().flatten().map(|bytes| ChainPosition::decode(&bytes)).transpose(),
        };
        Ok(events.iter().map(position).collect::<Result<_, _>>()?)
    }

    async fn rows(&self, spans: &[Span]) -> Result<Vec<Vec<ChainRow>>, RoomError> {
        let place = |position: ChainPosition| (position.chain.0, position.sequence);
        let places: Vec<ChainPosition> = spans.iter().flat_map(Span::positions).collect();
        let unknown: Vec<ChainPosition> = places
            .iter()
            .filter(|&&position| !self.new.rows.contains_key(&place(position)))
            .copied()
            .collect();
        let stored = if unknown.is_empty() {
            Vec::new()
        } else {
            let keys = unknown
                .iter()
                .map(|position| (self.room.0, position.chain.0.0, u64::from(position.sequence)));
            self.snapshot.get_many(&rows::CHAIN_ROWS, keys).await?
        };
        let mut stored = stored.into_iter();
        let mut found = Vec::with_capacity(spans.len());
        for span in spans {
            let mut of_span = Vec::with_capacity(span.len());
            for position in span.positions() {
                match self.new.rows.get(&place(position)) {
                    Some(row) => of_span.push(row.clone()),
                    None => {
                        if let Some(bytes) = stored.next().flatten() {
                            of_span.push(ChainRow::decode(&bytes)?);
                        }
                    }
                }
            }
            found.push(of_span);
        }
        Ok(found)
    }
}

impl From<ChainError> for RoomError {
    fn from(error: ChainError) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<InvalidChainRow> for RoomError {
    fn from(error: InvalidChainRow) -> Self {
        Self::Internal(error.to_string())
    }
}

//! The rules by which waiting transactions become one group commit. No I/O: rows are asked of the caller.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;

use crate::{
    Commit, Durability, LogPosition, Position, StorageError, Transaction, TransactionId, Write, WriterId,
    keyspace::RowKey,
    log::{HEADS, LOG, StoredEntries},
    value::Value,
};

/// So many outcomes are remembered for transactions that are handed in again.
const REMEMBERED_OUTCOMES: usize = 4_096;

/// Transactions that are being merged into one commit of the engine.
pub(crate) struct Group {
    writer: WriterId,
    sequence: u64,
    grew: bool,
    durable: bool,
    /// The rows as the admitted transactions leave them; `None` is a deletion.
    rows: BTreeMap<RowKey, Option<Bytes>>,
    admitted: Vec<(TransactionId, Commit)>,
}

/// A group that is ready for the engine.
pub(crate) struct MergedWrites {
    /// Every changed row once; `None` is a deletion.
    pub(crate) rows: BTreeMap<RowKey, Option<Bytes>>,
    /// Whether any of the transactions asked to be durable.
    pub(crate) durable: bool,
    /// The writer's newest sequence number after the commit.
    pub(crate) sequence: u64,
    /// What was admitted, to be remembered once the engine has committed.
    pub(crate) admitted: Vec<(TransactionId, Commit)>,
}

impl Group {
    /// An empty group of `writer`, whose newest commit has the number `sequence`.
    pub(crate) fn new(writer: WriterId, sequence: u64) -> Self {
        Self { writer, sequence, grew: false, durable: false, rows: BTreeMap::new(), admitted: Vec::new() }
    }

    /// Decides one transaction against the stored rows (`read`) and what earlier ones of the group leave. On an error the
    /// group is as it was.
    pub(crate) fn admit(
        &mut self,
        transaction: Transaction,
        mut read: impl FnMut(&RowKey) -> Result<Option<Bytes>, StorageError>,
    ) -> Result<Commit, StorageError> {
        if let Some((_, commit)) = self.admitted.iter().find(|(id, _)| *id == transaction.id) {
            return Ok(*commit);
        }
        for (key, check) in &transaction.checks {
            let holds = match self.rows.get(key) {
                Some(pending) => check.holds(pending.as_ref()),
                None => check.holds(read(key)?.as_ref()),
            };
            if !holds {
                return Err(StorageError::Conflict { keyspace: key.info.id.0 });
            }
        }
        let position = self.append(&transaction);
        for write in transaction.writes {
            let (key, value) = match write {
                Write::Delete { key } => (key, None),
                Write::Put { mut key, mut value, stamps } => {
                    if let Some(position) = position {
                        key.key = fill_in(key.key, stamps.key_at, position);
                        value = fill_in(value, stamps.value_at, position);
                    }
                    (key, Some(value))
                }
            };
            self.rows.insert(key, value);
        }
        self.durable |= transaction.durability == Durability::Durable;
        let commit = Commit { position };
        self.admitted.push((transaction.id, commit));
        Ok(commit)
    }

    fn append(&mut self, transaction: &Transaction) -> Option<LogPosition> {
        if transaction.entries.is_empty() {
            return None;
        }
        self.sequence += 1;
        self.grew = true;
        let entries = StoredEntries::from(transaction.entries.as_slice());
        self.rows.insert(LOG.row_key((self.writer, self.sequence)), Some(entries.encode()));
        Some(LogPosition { writer: self.writer, sequence: self.sequence })
    }

    /// What the engine has to write; `None` if nothing was admitted.
    pub(crate) fn finish(mut self) -> Option<MergedWrites> {
        if self.admitted.is_empty() {
            return None;
        }
        if self.grew {
            self.rows.insert(HEADS.row_key(self.writer), Some(self.sequence.encode()));
        }
        let Self { rows, durable, sequence, admitted, .. } = self;
        Some(MergedWrites { rows, durable, sequence, admitted })
    }
}

fn fill_in(bytes: Bytes, at: Option<usize>, position: LogPosition) -> Bytes {
    let Some(at) = at else { return bytes };
    let stamp = position.to_stamp();
    let mut bytes = Vec::from(bytes);
    bytes[at..at + stamp.len()].copy_from_slice(&stamp);
    bytes.into()
}

/// The newest outcomes, for transactions that are handed in again.
#[derive(Default)]
pub(crate) struct RecentOutcomes {
    order: VecDeque<TransactionId>,
    commits: HashMap<TransactionId, Commit>,
}

impl RecentOutcomes {
    pub(crate) fn get(&self, id: TransactionId) -> Option<Commit> {
        self.commits.get(&id).copied()
    }

    pub(crate) fn remember(&mut self, admitted: &[(TransactionId, Commit)]) {
        for &(id, commit) in admitted {
            if self.order.len() == REMEMBERED_OUTCOMES
                && let Some(oldest) = self.order.pop_front()
            {
                self.commits.remove(&oldest);
            }
            self.order.push_back(id);
            self.commits.insert(id, commit);
        }
    }
}

/// A place behind the commits of one writer.
pub(crate) fn position_of(writer: WriterId, sequence: u64) -> Position {
    let mut position = Position::start();
    if sequence > 0 {
        position.include(LogPosition { writer, sequence });
    }
    position
}

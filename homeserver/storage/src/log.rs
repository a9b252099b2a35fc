use bytes::Bytes;
use minicbor::{Decode, Encode};

use crate::{Keyspace, LogPosition, Position, Snapshot, StorageError, WriterId};

/// What kind of change a log entry tells of. Numbers are chosen by the crates above, each once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct Topic(#[n(0)] pub u16);

/// One change that others must learn of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// What kind of change.
    pub topic: Topic,
    /// What changed, in the topic's own encoding.
    pub payload: Bytes,
}

/// What one commit appended to the log: all its entries, at one position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// Where the commit stands.
    pub position: LogPosition,
    /// Its entries, in the order in which the transaction had them.
    pub entries: Vec<LogEntry>,
}

/// The log itself: a writer's commits under their sequence numbers, from 1 on without a gap.
pub(crate) const LOG: Keyspace<(WriterId, u64), StoredEntries> = Keyspace::new(1, "storage.log");

/// The newest sequence number of each writer.
pub(crate) const HEADS: Keyspace<WriterId, u64> = Keyspace::new(2, "storage.heads");

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub(crate) struct StoredEntries(#[n(0)] pub(crate) Vec<StoredEntry>);

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(crate) struct StoredEntry {
    #[n(0)]
    topic: Topic,
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    payload: Vec<u8>,
}

crate::cbor_value!(StoredEntries);

impl From<&[LogEntry]> for StoredEntries {
    fn from(entries: &[LogEntry]) -> Self {
        let stored = |entry: &LogEntry| StoredEntry { topic: entry.topic, payload: entry.payload.to_vec() };
        Self(entries.iter().map(stored).collect())
    }
}

impl From<StoredEntries> for Vec<LogEntry> {
    fn from(entries: StoredEntries) -> Self {
        let entry = |stored: StoredEntry| LogEntry { topic: stored.topic, payload: stored.payload.into() };
        entries.0.into_iter().map(entry).collect()
    }
}

/// Reads at most `limit` records behind `after`: each writer's in order and without a gap. Answers how far they reach.
pub(crate) async fn read(
    snapshot: &Snapshot,
    after: &Position,
    limit: usize,
) -> Result<(Vec<LogRecord>, Position), StorageError> {
    let mut records = Vec::new();
    let mut reached = after.clone();
    let visible = snapshot.position().await?;
    for (writer, newest) in visible.writers() {
        let read_up_to = after.sequence_of(writer);
        let room = limit.saturating_sub(records.len());
        if newest <= read_up_to || room == 0 {
            continue;
        }
        let scan = LOG.scan((writer,)).after((writer, read_up_to)).to((writer, newest)).limit(room);
        for ((writer, sequence), entries) in snapshot.scan(&scan).await?.rows {
            let position = LogPosition { writer, sequence };
            reached.include(position);
            records.push(LogRecord { position, entries: entries.into() });
        }
    }
    Ok((records, reached))
}

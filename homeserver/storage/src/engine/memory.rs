//! An engine in memory, for tests: it can be told to fail, to be slow, or to lose what was not synced at any operation.

use std::{collections::VecDeque, ops::Bound, sync::Arc, time::Duration};

use bytes::Bytes;
use imbl::OrdMap;
use parking_lot::Mutex;

use super::{
    Engine, RowKey, RowPage, RowRange,
    group::MergedWrites,
    local::{LocalEngine, LocalStore, LocalView},
};
use crate::{KeyspaceId, KeyspaceInfo, StorageError};

type Rows = OrdMap<RowKey, Bytes>;

/// What stands for the disk: it outlives the engine that is opened on it, as a disk outlives a process.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// What a running process sees.
    current: Rows,
    /// What a power cut leaves.
    synced: Rows,
    /// How often it was opened: an engine that was opened earlier has lost its disk.
    generation: u64,
    faults: VecDeque<PlannedFault>,
    operations: [u64; Operation::Sync as usize + 1],
}

#[derive(Debug)]
struct PlannedFault {
    operation: Operation,
    skip: u64,
    fault: Fault,
}

/// What the engine is doing when a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reading a row, by the writer or in a snapshot.
    Get,
    /// Reading a page.
    Scan,
    /// Writing a group of rows, before any of them is written.
    Apply,
    /// Making them durable, after they are written.
    Sync,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// The operation fails and changes nothing.
    Fail,
    /// The operation takes this much longer.
    Delay(Duration),
    /// The power is cut: what was not synced is gone, and the engine answers nothing but errors from now on.
    PowerCut,
}

impl Disk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `fault` strike once, at the first such operation after `skip` others of its kind.
    pub fn plan(&self, operation: Operation, skip: u64, fault: Fault) {
        self.state.lock().faults.push_back(PlannedFault { operation, skip, fault });
    }

    /// Cuts the power now. Open the disk again to go on.
    pub fn cut_power(&self) {
        self.state.lock().cut_power();
    }

    /// How many operations of a kind there were so far, failed ones included.
    pub fn operations(&self, operation: Operation) -> u64 {
        self.state.lock().operations[operation as usize]
    }

    /// Opens an engine on this disk. One that was opened earlier fails from now on.
    pub fn open(&self) -> Result<Arc<dyn Engine>, StorageError> {
        let generation = {
            let mut state = self.state.lock();
            state.generation += 1;
            state.generation
        };
        Ok(Arc::new(LocalStore::start(MemoryEngine { disk: self.clone(), generation })?))
    }

    fn meet(&self, operation: Operation, generation: u64) -> Result<(), StorageError> {
        let fault = {
            let mut state = self.state.lock();
            if state.generation != generation {
                return Err(lost());
            }
            state.operations[operation as usize] += 1;
            state.next_fault(operation)
        };
        match fault {
            None => Ok(()),
            Some(Fault::Fail) => Err(StorageError::engine(std::io::Error::other("a planned failure"))),
            Some(Fault::Delay(delay)) => {
                std::thread::sleep(delay);
                Ok(())
            }
            Some(Fault::PowerCut) => {
                self.cut_power();
                Err(lost())
            }
        }
    }
}

impl State {
    fn next_fault(&mut self, operation: Operation) -> Option<Fault> {
        let index = self.faults.iter().position(|planned| planned.operation == operation)?;
        if self.faults[index].skip > 0 {
            self.faults[index].skip -= 1;
            return None;
        }
        self.faults.remove(index).map(|planned| planned.fault)
    }

    fn cut_power(&mut self) {
        self.current = self.synced.clone();
        self.generation += 1;
    }
}

fn lost() -> StorageError {
    StorageError::Unavailable(String::from("the power was cut"))
}

struct MemoryEngine {
    disk: Disk,
    generation: u64,
}

struct MemoryView {
    rows: Rows,
    disk: Disk,
    generation: u64,
}

impl LocalEngine for MemoryEngine {
    type View = MemoryView;
    const NAME: &'static str = "memory";

    fn get(&mut self, key: &RowKey) -> Result<Option<Bytes>, StorageError> {
        self.disk.meet(Operation::Get, self.generation)?;
        Ok(self.disk.state.lock().current.get(key).cloned())
    }

    fn apply(&mut self, merged: &MergedWrites) -> Result<(), StorageError> {
        self.disk.meet(Operation::Apply, self.generation)?;
        let before = {
            let mut state = self.disk.state.lock();
            let before = state.current.clone();
            for (key, value) in &merged.rows {
                match value {
                    Some(value) => state.current.insert(key.clone(), value.clone()),
                    None => state.current.remove(key),
                };
            }
            before
        };
        if merged.durable
            && let Err(error) = self.sync()
        {
            let mut state = self.disk.state.lock();
            if state.generation == self.generation {
                state.current = before;
            }
            return Err(error);
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.disk.meet(Operation::Sync, self.generation)?;
        let mut state = self.disk.state.lock();
        state.synced = state.current.clone();
        Ok(())
    }

    fn view(&mut self) -> MemoryView {
        let rows = self.disk.state.lock().current.clone();
        MemoryView { rows, disk: self.disk.clone(), generation: self.generation }
    }
}

impl LocalView for MemoryView {
    const BLOCKS: bool = false;

    fn get(&self, key: &RowKey) -> Result<Option<Bytes>, StorageError> {
        self.disk.meet(Operation::Get, self.generation)?;
        Ok(self.rows.get(key).cloned())
    }

    fn scan(&self, range: &RowRange) -> Result<RowPage, StorageError> {
        self.disk.meet(Operation::Scan, self.generation)?;
        let key = |key: &Bytes| RowKey { info: range.info, key: key.clone() };
        // An unbounded end stops where the neighbouring keyspace begins.
        let lower = match &range.lower {
            Bound::Unbounded => Bound::Included(key(&Bytes::new())),
            bound => bound.as_ref().map(key),
        };
        let upper = match &range.upper {
            Bound::Unbounded => match range.info.id.0.checked_add(1) {
                Some(next) => Bound::Excluded(RowKey {
                    info: KeyspaceInfo { id: KeyspaceId(next), ..range.info },
                    key: Bytes::new(),
                }),
                None => Bound::Unbounded,
            },
            bound => bound.as_ref().map(key),
        };
        let mut rows = self.rows.range((lower, upper));
        let mut page = RowPage::default();
        while let Some((key, value)) = if range.reverse { rows.next_back() } else { rows.next() } {
            if page.push(key.key.clone(), value.clone(), range.limit) {
                break;
            }
        }
        Ok(page)
    }
}

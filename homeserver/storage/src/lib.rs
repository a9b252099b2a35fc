//! Ordered, transactional keys and values with a durable change log, over several engines.
//!
//! This crate knows nothing of Matrix. It offers:
//!
//! - [`Store`]: the handle that everything above holds. [`Store::snapshot`] reads, [`Store::run`] writes,
//!   [`Store::watch`] wakes.
//! - [`Keyspace`]: a table, declared once as a constant, with an order-preserving key codec ([`codec`]) and a value
//!   codec ([`value`]). A [`Catalogue`] is the list of all of them.
//! - [`Transaction`]: checks, writes and log entries as data. Many are merged into one group commit.
//! - [`Position`] and [`LogRecord`]: the change log, and [`Follower`], who reads it from a stored cursor.
//! - [`engine`]: fjall (the embedded default), PostgreSQL, an in-memory engine with fault injection, and sled.
//! - [`backup`]: copies of a running store in a file, from which a store of any engine is restored.

pub mod backup;
pub mod codec;
pub mod engine;
pub mod value;

mod error;
mod follower;
mod keyspace;
mod log;
mod position;
mod position_range;
mod scan;
mod schema;
mod snapshot;
mod store;
mod transaction;
mod trimming;

pub use bytes::Bytes;

pub use self::{
    error::StorageError,
    follower::{Follower, StartFrom, keep_following},
    keyspace::{Catalogue, Keyspace, KeyspaceId, KeyspaceInfo, Layout},
    log::{LogEntry, LogRecord, Topic},
    position::{LogPosition, ParsePositionError, Position, WriterId},
    scan::{Page, Resume, Scan},
    schema::{Migration, Schema},
    snapshot::Snapshot,
    store::{Store, Watch},
    transaction::{Check, Commit, Durability, Stamps, Transaction, TransactionId, Version, Write},
};

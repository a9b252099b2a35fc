//! `[storage]`: where rooms, accounts and everything but media are kept.

use std::{num::NonZeroU32, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    validation::Contradictions,
    values::{ByteSize, Secret},
};

/// Which engine keeps the data, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Storage {
    /// The engine. Changing it does not move the data.
    pub engine: Engine,
    /// Whether the operator accepts an engine that may lose what was acknowledged; `memory` and `sled` need it.
    pub allow_data_loss: bool,
    /// Settings of the engine `fjall`.
    pub fjall: FjallStorage,
    /// Settings of the engine `postgresql`.
    pub postgresql: PostgresqlStorage,
    /// Settings of the engine `sled`.
    pub sled: SledStorage,
}

/// What keeps the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Embedded, in a directory of this machine.
    #[default]
    Fjall,
    /// A server that speaks PostgreSQL's protocol; several Entente nodes can share it.
    Postgresql,
    /// Nowhere: everything is gone when the program ends.
    Memory,
    /// Embedded; does not survive power cuts, and stands here to be measured. Needs a build with `engine-sled`.
    Sled,
}

/// The engine `fjall`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FjallStorage {
    /// The engine's directory; absent: `store` in the data directory. Read it through [`crate::Config::store_path`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Decompressed blocks kept in memory, in bytes.
    pub cache_size: ByteSize,
    /// Journal on disk before tables must be written, in bytes: what a restart after a crash reads again. At least 64 MiB.
    pub journal_size: ByteSize,
    /// Fresh writes kept in memory before they are written as a table, in bytes.
    pub memtable_size: ByteSize,
}

impl Default for FjallStorage {
    fn default() -> Self {
        Self {
            path: None,
            cache_size: ByteSize::mebibytes(32),
            journal_size: ByteSize::mebibytes(128),
            memtable_size: ByteSize::mebibytes(8),
        }
    }
}

/// The engine `postgresql`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PostgresqlStorage {
    /// Where the database is, such as `postgresql://user:password@host/database`. Needed if it is the engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<Secret>,
    /// The most connections held at once.
    pub max_connections: NonZeroU32,
    /// Roots, in PEM form, that the database's certificate may lead to, besides the public ones. Used with
    /// `sslmode=require` in the URL, which encrypts the connection and verifies the certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

impl Default for PostgresqlStorage {
    fn default() -> Self {
        Self {
            url: None,
            max_connections: NonZeroU32::new(16).expect("a constant above zero"),
            ca_file: None,
        }
    }
}

/// The engine `sled`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SledStorage {
    /// The engine's directory; absent: `sled` in the data directory. Read it through [`crate::Config::sled_path`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Pages kept in memory, in bytes.
    pub cache_size: ByteSize,
}

impl Default for SledStorage {
    fn default() -> Self {
        Self { path: None, cache_size: ByteSize::mebibytes(64) }
    }
}

/// The least journal with which fjall works.
const MINIMUM_JOURNAL: ByteSize = ByteSize::mebibytes(64);
/// The least memory for fresh writes with which flushing isn't most of the work.
const MINIMUM_MEMTABLE: ByteSize = ByteSize::mebibytes(1);

impl Storage {
    pub(crate) fn check(&self, found: &mut Contradictions) {
        if self.engine == Engine::Postgresql && self.postgresql.url.is_none() {
            found.add(
                &["storage.engine", "storage.postgresql.url"],
                "the engine \"postgresql\" needs storage.postgresql.url",
            );
        }
        let loses_data = match self.engine {
            Engine::Memory => Some("the engine \"memory\" forgets everything when the program ends"),
            Engine::Sled => Some("the engine \"sled\" does not survive power cuts"),
            Engine::Fjall | Engine::Postgresql => None,
        };
        if let Some(what) = loses_data.filter(|_| !self.allow_data_loss) {
            let message = format!("{what}; set storage.allow_data_loss = true if that is meant");
            found.add(&["storage.engine", "storage.allow_data_loss"], message);
        }
        if self.fjall.journal_size < MINIMUM_JOURNAL {
            found.add(&["storage.fjall.journal_size"], format!("at least {MINIMUM_JOURNAL} is needed"));
        }
        if self.fjall.memtable_size < MINIMUM_MEMTABLE {
            found.add(&["storage.fjall.memtable_size"], format!("at least {MINIMUM_MEMTABLE} is needed"));
        }
        if self.fjall.memtable_size > self.fjall.journal_size {
            let message = "fresh writes in memory are in the journal too: more than storage.fjall.journal_size is of no use";
            found.add(&["storage.fjall.memtable_size", "storage.fjall.journal_size"], message);
        }
    }
}

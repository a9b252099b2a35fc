//! From the settings to an open store.

use std::{
    fs::{DirBuilder, Permissions},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
    sync::Arc,
};

use entente_config::{Config, Engine, Tls};
use entente_storage::{
    Store,
    engine::{self, fjall, memory, postgresql},
};

use crate::catalogue;

/// Makes the directories that hold secrets, for the server's own user only.
fn make_private_dirs(config: &Config) -> Result<(), String> {
    make_private_dir(&config.data_dir)?;
    if config.listeners.iter().any(|listener| listener.tls == Some(Tls::Acme)) {
        make_private_dir(&config.acme_cache_dir())?;
    }
    Ok(())
}

fn make_private_dir(path: &Path) -> Result<(), String> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .and_then(|()| std::fs::set_permissions(path, Permissions::from_mode(0o700)))
        .map_err(|error| format!("{} cannot be made: {error}", path.display()))
}

/// Opens the engine that the settings name.
pub(crate) async fn open_engine(config: &Config) -> Result<Arc<dyn engine::Engine>, String> {
    make_private_dirs(config)?;
    let storage = &config.storage;
    let opened = match storage.engine {
        Engine::Fjall => {
            let path = config.store_path();
            let options = fjall::Options {
                cache_bytes: storage.fjall.cache_size.as_u64(),
                journal_bytes: storage.fjall.journal_size.as_u64(),
                memtable_bytes: storage.fjall.memtable_size.as_u64(),
            };
            make_private_dir(&path)?;
            tokio::task::spawn_blocking(move || fjall::open(&path, options))
                .await
                .map_err(|error| error.to_string())?
        }
        Engine::Postgresql => {
            let url = storage.postgresql.url.as_ref().map(|url| url.reveal().to_owned()).unwrap_or_default();
            let max_connections = storage.postgresql.max_connections;
            let ca_file = storage.postgresql.ca_file.clone();
            postgresql::open(postgresql::Options { url, max_connections, ca_file }).await
        }
        Engine::Memory => memory::Disk::new().open(),
        Engine::Sled => return open_sled(config).await,
    };
    opened.map_err(|error| format!("the store cannot be opened: {error}"))
}

#[cfg(feature = "engine-sled")]
async fn open_sled(config: &Config) -> Result<Arc<dyn engine::Engine>, String> {
    let path = config.sled_path();
    make_private_dir(&path)?;
    let cache_bytes = config.storage.sled.cache_size.as_u64();
    tokio::task::spawn_blocking(move || engine::sled::open(&path, cache_bytes))
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| format!("the store cannot be opened: {error}"))
}

#[cfg(not(feature = "engine-sled"))]
#[expect(clippy::unused_async, reason = "the same shape as with the feature")]
async fn open_sled(_: &Config) -> Result<Arc<dyn engine::Engine>, String> {
    Err(String::from("this program was built without the engine sled (cargo feature engine-sled)"))
}

/// Opens the store, and migrates it forward if an older program wrote it.
pub(crate) async fn open(config: &Config) -> Result<Store, String> {
    let engine = open_engine(config).await?;
    Store::open(engine, catalogue::schema())
        .await
        .map_err(|error| format!("the store cannot be opened: {error}"))
}

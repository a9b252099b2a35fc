//! Media: what users upload, what was fetched from other servers for them, and small pictures of both.
//!
//! Content is kept in an object store (files or S3), under the digest of its bytes, once however often it is uploaded. Rows say
//! which media ids lead to it, whose they are, and how many there are. Content is in the store before a row names it, so a crash
//! leaves at worst content that nobody names, which [`Media::sweep`] deletes.

mod download;
mod drawing;
mod error;
mod objects;
mod previews;
mod remote;
mod removal;
mod rows;
mod thumbnails;
mod upload;

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use entente_environment::Environment;
use entente_storage::Store;
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, Notify, RwLock, Semaphore};

use self::objects::Objects;
pub use self::{
    download::{Content, MediaFile},
    error::MediaError,
    previews::PreviewError,
    remote::{RemoteError, RemoteFile, RemoteMedia},
    removal::Removed,
    rows::KEYSPACES,
    thumbnails::{Thumbnail, ThumbnailRequest},
    upload::{NewMedia, Promised},
};

/// The media of one server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Media {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    environment: Environment,
    store: Store,
    objects: Objects,
    settings: entente_config::Media,
    remote: Arc<dyn RemoteMedia>,
    /// `None`: no pages are asked.
    asker: Option<previews::Asker>,
    uploads: Semaphore,
    drawings: Arc<Semaphore>,
    /// Told when an upload that was promised has come.
    uploaded: Notify,
    /// What is being fetched or drawn: who wants the same waits for it.
    busy: Mutex<HashMap<String, Arc<AsyncMutex<()>>>>,
    /// Held by whoever puts content into the store until a row names it, and alone by whoever deletes content that none names.
    naming: RwLock<()>,
}

impl Media {
    /// The media that `store` names and the object store of the settings keeps; `directory` is where files are kept, if they are.
    pub async fn open(
        environment: Environment,
        store: Store,
        settings: entente_config::Media,
        directory: PathBuf,
        remote: Arc<dyn RemoteMedia>,
    ) -> Result<Self, MediaError> {
        let objects = Objects::open(&settings, directory).await?;
        let count = |number: std::num::NonZeroU32| usize::try_from(number.get()).unwrap_or(usize::MAX);
        let asker = previews::Asker::new(&settings.previews)?;
        let inner = Inner {
            uploads: Semaphore::new(count(settings.max_uploads_at_once)),
            drawings: Arc::new(Semaphore::new(count(settings.thumbnails.at_once))),
            uploaded: Notify::new(),
            busy: Mutex::new(HashMap::new()),
            naming: RwLock::new(()),
            environment,
            store,
            objects,
            settings,
            remote,
            asker,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What the operator decided about media.
    pub fn settings(&self) -> &entente_config::Media {
        &self.inner.settings
    }

    /// What no file has in it: for a body of several parts.
    pub fn boundary(&self) -> String {
        self.inner.environment.randomness().alphanumeric(40)
    }

    /// A lock on a piece of work. Those that nobody holds are forgotten.
    fn lock_for(&self, work: String) -> Arc<AsyncMutex<()>> {
        let mut busy = self.inner.busy.lock();
        busy.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(busy.entry(work).or_default())
    }
}

//! Media: what users upload, what was fetched from other servers for them, and small pictures of both.
//!
//! Content is kept in an object store (files or S3), once however often it is uploaded. Rows say which media ids lead to it, whose
//! they are, how many there are, and which object has it. Content is in the store before a row names it, so a crash leaves at worst
//! an object that nobody names, which [`Media::sweep`] deletes. The name of an object is never given again, so whoever took the last
//! row of it away may delete it while the same content comes anew.

mod avif;
mod download;
mod drawing;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod objects;
mod owner;
mod places;
mod previews;
mod remote;
mod removal;
mod rows;
mod thumbnails;
mod upload;

use std::{collections::HashMap, num::NonZeroU32, path::PathBuf, sync::Arc};

use entente_environment::Environment;
use entente_outbound::Route;
use entente_storage::Store;
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, Notify, Semaphore};

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
use self::{objects::Objects, places::Places, thumbnails::Failures};

/// Uploads of one user that are taken in at once.
const MOST_UPLOADS_EACH: usize = 8;
/// Files of other servers that are fetched at once,
const MOST_FETCHES: NonZeroU32 = NonZeroU32::new(64).expect("a constant above zero");
/// and of them so many of one server.
const MOST_FETCHES_EACH: usize = 16;

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
    /// Whether what no row names is nobody's.
    owns_objects: bool,
    settings: entente_config::Media,
    remote: Arc<dyn RemoteMedia>,
    /// `None`: no pages are asked.
    asker: Option<previews::Asker>,
    uploads: Places,
    /// Files of other servers, by server.
    fetches: Places,
    drawings: Arc<Semaphore>,
    /// Of what no small picture can be made.
    failures: Failures,
    /// Told when an upload that was promised has come.
    uploaded: Notify,
    /// What is being fetched or drawn: who wants the same waits for it.
    busy: Mutex<HashMap<String, Arc<AsyncMutex<()>>>>,
}

impl Media {
    /// The media that `store` names and the object store of the settings keeps; `directory` is where files are kept, if they are, and
    /// `route` the way to the pages that are previewed.
    pub async fn open(
        environment: Environment,
        store: Store,
        settings: entente_config::Media,
        directory: PathBuf,
        remote: Arc<dyn RemoteMedia>,
        route: Route,
    ) -> Result<Self, MediaError> {
        let objects = Objects::open(&settings, directory).await?;
        let owns_objects = owner::claim(&environment, &store, &objects).await?;
        let drawings = usize::try_from(settings.thumbnails.at_once.get()).unwrap_or(usize::MAX);
        let asker = previews::Asker::new(&settings.previews, route)?;
        let inner = Inner {
            uploads: Places::new(settings.max_uploads_at_once, MOST_UPLOADS_EACH),
            fetches: Places::new(MOST_FETCHES, MOST_FETCHES_EACH),
            drawings: Arc::new(Semaphore::new(drawings.min(Semaphore::MAX_PERMITS))),
            failures: Failures::default(),
            uploaded: Notify::new(),
            busy: Mutex::new(HashMap::new()),
            owns_objects,
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

//! What was uploaded, given out.

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use entente_environment::Timestamp;
use futures_util::stream::BoxStream;
use ruma::ServerName;
use tokio::time::{Instant, timeout_at};

use crate::{
    Media, MediaError,
    rows::{self, MediaRow},
    upload::MOST_ID_BYTES,
};

/// The bytes of a file, as they come from the store.
pub type Content = BoxStream<'static, Result<Bytes, MediaError>>;

/// The longest that is waited for what has not come yet: less than a request may take unless the operator says otherwise.
const LONGEST_WAIT: Duration = Duration::from_secs(50);
/// Another node may have taken in an upload that is waited for: it is looked for this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A file that can be given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaFile {
    /// The name of the object that has its bytes.
    pub(crate) object: String,
    /// The SHA-256 digest of its bytes, in hexadecimal digits.
    pub digest: String,
    /// Bytes.
    pub size: u64,
    /// What its bytes are said to be.
    pub content_type: Option<String>,
    /// What it is called.
    pub filename: Option<String>,
    /// When it came here.
    pub came_at: Timestamp,
}

impl Media {
    /// A file. Those of this server (`server` is `None`) that were promised are waited for, those of other servers fetched if they
    /// are not here and may be.
    pub async fn file(
        &self,
        server: Option<&ServerName>,
        media_id: &str,
        wait: Duration,
        may_fetch: bool,
    ) -> Result<MediaFile, MediaError> {
        // C-S API, "Security considerations" of the content repository.
        let is_id = !media_id.is_empty()
            && media_id.len() <= MOST_ID_BYTES
            && media_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if !is_id {
            return Err(MediaError::NotFound);
        }
        let wait = wait.min(LONGEST_WAIT);
        let row = match server {
            None => self.local(media_id, wait).await?,
            Some(server) => self.remote(server, media_id, wait, may_fetch).await?,
        };
        if row.quarantined {
            return Err(MediaError::NotFound);
        }
        let digest = row.digest.ok_or(MediaError::NotYetUploaded)?;
        let snapshot = self.inner.store.snapshot().await?;
        let content = snapshot.get(&rows::CONTENT, digest.as_str()).await?.ok_or(MediaError::NotFound)?;
        Ok(MediaFile {
            object: content.object,
            digest,
            size: row.size,
            content_type: row.content_type,
            filename: row.filename,
            came_at: Timestamp(row.created_at),
        })
    }

    async fn local(&self, media_id: &str, wait: Duration) -> Result<MediaRow, MediaError> {
        let deadline = Instant::now() + wait;
        loop {
            let uploaded = self.inner.uploaded.notified();
            let snapshot = self.inner.store.snapshot().await?;
            let row = snapshot.get(&rows::MEDIA, media_id).await?.ok_or(MediaError::NotFound)?;
            if row.digest.is_some() {
                return Ok(row);
            }
            if self.lapses_at(&row) <= self.inner.environment.now().millis() {
                return Err(MediaError::NotFound);
            }
            if Instant::now() >= deadline {
                return Err(MediaError::NotYetUploaded);
            }
            let _ = timeout_at(deadline.min(Instant::now() + LOOK_EVERY), uploaded).await;
        }
    }

    /// The bytes of a file, or some of them: `range` is within it.
    pub async fn read(&self, file: &MediaFile, range: Range<u64>) -> Result<Content, MediaError> {
        self.inner.objects.read(&file.object, range).await
    }
}

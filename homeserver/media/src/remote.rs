//! Media of other servers: fetched once, when somebody here asks for them, and kept.

use std::{fmt::Debug, future::Future, pin::Pin, time::Duration};

use bytes::Bytes;
use entente_storage::Transaction;
use futures_util::stream::BoxStream;
use ruma::{OwnedServerName, ServerName};
use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    Media, MediaError,
    objects::Came,
    rows::{self, MediaRow},
    upload::{MOST_NAME_BYTES, MOST_TYPE_BYTES, Unnamed, name_content},
};

/// A file as another server gives it.
pub struct RemoteFile {
    /// What its bytes are said to be.
    pub content_type: Option<String>,
    /// What it is called.
    pub filename: Option<String>,
    /// Its bytes, as they come.
    pub body: BoxStream<'static, Result<Bytes, String>>,
}

impl Debug for RemoteFile {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("RemoteFile").finish_non_exhaustive()
    }
}

/// Why another server's file could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// This server does not speak to that one.
    #[error("this server does not speak to {0}")]
    Refused(OwnedServerName),
    /// It has no such media.
    #[error("{0} has no such media")]
    NotFound(OwnedServerName),
    /// It was promised there, and has not come yet.
    #[error("the media has not been uploaded to {0} yet")]
    NotYetUploaded(OwnedServerName),
    /// It could not be reached, or gave no sensible answer.
    #[error("{server}: {reason}")]
    Failed {
        /// Which.
        server: OwnedServerName,
        /// Why.
        reason: String,
    },
    /// The file is larger than is fetched.
    #[error("the media of {0} is larger than is fetched")]
    TooLarge(OwnedServerName),
}

/// How files of other servers are had.
pub trait RemoteMedia: Debug + Send + Sync {
    /// Asks a server for a file.
    fn fetch<'a>(
        &'a self,
        server: &'a ServerName,
        media_id: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<RemoteFile, RemoteError>> + Send + 'a>>;
}

impl Media {
    /// The row of another server's media, which is fetched if it is not here. What takes longer than `wait` goes on, for the next
    /// who asks.
    pub(crate) async fn remote(
        &self,
        server: &ServerName,
        media_id: &str,
        wait: Duration,
        may_fetch: bool,
    ) -> Result<MediaRow, MediaError> {
        if let Some(row) = self.known_remote(server, media_id).await? {
            return Ok(row);
        }
        if !may_fetch {
            return Err(MediaError::NotFound);
        }
        let deadline = Instant::now() + wait;
        let late = |_| MediaError::NotYetUploaded;
        // Who comes while it is fetched waits for it.
        let lock = self.lock_for(format!("fetch {server}/{media_id}"));
        let turn = timeout_at(deadline, lock.lock_owned()).await.map_err(late)?;
        if let Some(row) = self.known_remote(server, media_id).await? {
            return Ok(row);
        }
        let place = self.inner.fetches.take(server.as_str(), deadline).await?;
        let (media, server, media_id) = (self.clone(), server.to_owned(), media_id.to_owned());
        let fetch = tokio::spawn(async move {
            let (_turn, _place) = (turn, place);
            let fetched = media.fetch(&server, &media_id).await;
            if let Err(error) = &fetched {
                tracing::debug!(server.name = %server, media_id, %error, "media of another server did not come");
            }
            fetched
        });
        let fetched = timeout_at(deadline, fetch).await.map_err(late)?;
        fetched.map_err(|error| MediaError::Objects(error.to_string()))?
    }

    async fn known_remote(
        &self,
        server: &ServerName,
        media_id: &str,
    ) -> Result<Option<MediaRow>, MediaError> {
        let snapshot = self.inner.store.snapshot().await?;
        let row = snapshot.get(&rows::REMOTE, (server.as_str(), media_id)).await?;
        Ok(row.filter(|row| row.digest.is_some() || row.quarantined))
    }

    async fn fetch(&self, server: &ServerName, media_id: &str) -> Result<MediaRow, MediaError> {
        let settings = &self.inner.settings;
        let most = settings.max_remote_size.as_u64();
        let file = self.inner.remote.fetch(server, media_id).await?;
        let row = MediaRow {
            created_at: self.inner.environment.now().millis(),
            content_type: file.content_type.filter(|content_type| content_type.len() <= MOST_TYPE_BYTES),
            filename: file.filename.filter(|filename| filename.len() <= MOST_NAME_BYTES),
            ..MediaRow::default()
        };
        let failed = |reason: String| RemoteError::Failed { server: server.to_owned(), reason };
        let mut named = None;
        let kept = self.keep(file.body, most, async |came| {
            let (row, unnamed) = self.name_remote(server, media_id, row, came).await?;
            named = Some(row);
            Ok(unnamed)
        });
        match timeout(settings.upload_timeout.duration(), kept).await {
            Ok(Ok(_)) => named.ok_or(MediaError::NotFound),
            Ok(Err(MediaError::TooLarge(_))) => Err(RemoteError::TooLarge(server.to_owned()).into()),
            Ok(Err(MediaError::BrokenUpload(reason))) => Err(failed(reason).into()),
            Ok(Err(MediaError::SlowUpload)) | Err(_) => {
                Err(failed(String::from("the file took too long")).into())
            }
            Ok(Err(error)) => Err(error),
        }
    }

    /// Names what came, unless there is a row already: another node was quicker, or the operator keeps it from everybody. Answers the
    /// row that there is then.
    async fn name_remote(
        &self,
        server: &ServerName,
        media_id: &str,
        row: MediaRow,
        came: Came,
    ) -> Result<(MediaRow, Unnamed), MediaError> {
        let row = MediaRow { digest: Some(came.digest.clone()), size: came.size, ..row };
        let named = self.inner.store.run(async |snapshot| {
            let mut transaction = Transaction::new();
            let key = (server.as_str(), media_id);
            if let Some(known) = snapshot.get(&rows::REMOTE, key).await? {
                return Ok::<_, MediaError>((transaction, (known, Some(came.object.clone()))));
            }
            transaction.check_absent(&rows::REMOTE, key);
            transaction.put(&rows::REMOTE, key, &row);
            let unnamed = name_content(&snapshot, &mut transaction, &came).await?;
            Ok((transaction, (row.clone(), unnamed)))
        });
        Ok(named.await?.0)
    }
}

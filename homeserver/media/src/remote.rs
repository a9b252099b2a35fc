//! Media of other servers: fetched once, when somebody here asks for them, and kept.

use std::{fmt::Debug, future::Future, pin::Pin};

use bytes::Bytes;
use entente_storage::Transaction;
use futures_util::stream::BoxStream;
use ruma::{OwnedServerName, ServerName};

use crate::{
    Media, MediaError,
    objects::Came,
    rows::{self, MediaRow},
    upload::count_content,
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
    /// It could not be reached, or gave no sensible answer.
    #[error("{server}: {reason}")]
    Failed {
        /// Which.
        server: OwnedServerName,
        /// Why.
        reason: String,
    },
    /// The file is larger than is fetched.
    #[error("the media of {server} has more than {most} bytes")]
    TooLarge {
        /// Whose.
        server: OwnedServerName,
        /// How many are fetched at the most.
        most: u64,
    },
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
    /// The row of another server's media, which is fetched if it is not here.
    pub(crate) async fn remote(
        &self,
        server: &ServerName,
        media_id: &str,
        may_fetch: bool,
    ) -> Result<MediaRow, MediaError> {
        if let Some(row) = self.known_remote(server, media_id).await? {
            return Ok(row);
        }
        if !may_fetch {
            return Err(MediaError::NotFound);
        }
        // Who comes while it is fetched waits for it.
        let lock = self.lock_for(format!("fetch {server}/{media_id}"));
        let _turn = lock.lock().await;
        match self.known_remote(server, media_id).await? {
            Some(row) => Ok(row),
            None => self.fetch(server, media_id).await,
        }
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
            content_type: file.content_type.filter(|content_type| content_type.len() <= 255),
            filename: file.filename.filter(|filename| filename.len() <= 1_024),
            ..MediaRow::default()
        };
        let failed = |reason: String| RemoteError::Failed { server: server.to_owned(), reason };
        let mut named = None;
        let kept = self.keep(file.body, most, async |came| {
            let row = MediaRow { digest: Some(came.digest.clone()), size: came.size, ..row };
            self.name_remote(server, media_id, &row, came).await?;
            named = Some(row);
            Ok(())
        });
        let kept = tokio::time::timeout(settings.upload_timeout.duration(), kept).await;
        match kept.map_err(|_| failed(String::from("the file took too long")))? {
            Ok(_) => named.ok_or(MediaError::NotFound),
            Err(MediaError::TooLarge(most)) => {
                Err(RemoteError::TooLarge { server: server.to_owned(), most }.into())
            }
            Err(MediaError::BrokenUpload(reason)) => Err(failed(reason).into()),
            Err(error) => Err(error),
        }
    }

    async fn name_remote(
        &self,
        server: &ServerName,
        media_id: &str,
        row: &MediaRow,
        _: Came,
    ) -> Result<(), MediaError> {
        let named = self.inner.store.run(async |snapshot| {
            let mut transaction = Transaction::new();
            let key = (server.as_str(), media_id);
            let before = snapshot.get(&rows::REMOTE, key).await?;
            transaction.check_unchanged(&rows::REMOTE, key, before.as_ref());
            // Another node was quicker.
            if before.is_none() {
                transaction.put(&rows::REMOTE, key, row);
                count_content(&snapshot, &mut transaction, row, true).await?;
            }
            Ok::<_, MediaError>((transaction, ()))
        });
        named.await?;
        Ok(())
    }
}

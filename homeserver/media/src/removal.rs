//! Media that are deleted: by the operator, with their users, or because nobody names them.

use std::{pin::pin, time::Duration};

use entente_storage::Transaction;
use futures_util::TryStreamExt;
use ruma::ServerName;

use crate::{
    Media, MediaError,
    objects::digest_of,
    rows::{self, MediaRow, UsageRow},
    upload::{Unnamed, put_usage, unname_content, usage},
};

/// Content that no row names, and uploads that never ended, are left alone for this long: they may be on their way.
const UNNAMED_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// Rows that are looked at together.
const PAGE: usize = 500;

/// What was deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Media.
    pub media: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Removed {
    fn add(&mut self, row: &MediaRow) {
        self.media += 1;
        self.bytes = self.bytes.saturating_add(row.size);
    }
}

impl Media {
    /// Deletes one media, with its content if nothing else is of it.
    pub async fn delete(&self, server: Option<&ServerName>, media_id: &str) -> Result<Removed, MediaError> {
        let row = match server {
            None => self.delete_local_row(media_id).await?,
            Some(server) => self.delete_remote_row(server.as_str(), media_id).await?,
        };
        let (row, unnamed) = row.ok_or(MediaError::NotFound)?;
        let mut removed = Removed::default();
        removed.add(&row);
        self.delete_unnamed(unnamed).await;
        Ok(removed)
    }

    /// Deletes everything that a user uploaded before a time (ms since 1970).
    pub async fn delete_of(&self, localpart: &str, before: u64) -> Result<Removed, MediaError> {
        let snapshot = self.inner.store.snapshot().await?;
        let uploads = snapshot.scan_all(rows::MEDIA_OF_USERS.scan((localpart,))).await?;
        let mut removed = Removed::default();
        for ((_, _, media_id), ()) in uploads.into_iter().take_while(|((_, at, _), ())| *at < before) {
            if let Some((row, unnamed)) = self.delete_local_row(&media_id).await? {
                removed.add(&row);
                self.delete_unnamed(unnamed).await;
            }
        }
        Ok(removed)
    }

    /// Deletes the copies of other servers' media that came before a time (ms since 1970). They can be fetched again.
    pub async fn delete_remote(&self, before: u64) -> Result<Removed, MediaError> {
        let mut removed = Removed::default();
        let mut scan = rows::REMOTE.scan(()).limit(PAGE);
        loop {
            let page = self.inner.store.snapshot().await?.scan(&scan).await?;
            for ((server, media_id), row) in page.rows {
                if row.created_at >= before || row.quarantined {
                    continue;
                }
                if let Some((row, unnamed)) = self.delete_remote_row(&server, &media_id).await? {
                    removed.add(&row);
                    self.delete_unnamed(unnamed).await;
                }
            }
            match page.next {
                Some(next) => scan = rows::REMOTE.scan(()).limit(PAGE).resume(next),
                None => return Ok(removed),
            }
        }
    }

    /// Keeps a media from everybody, or not any more. One of another server that is not here is not fetched then.
    pub async fn quarantine(
        &self,
        server: Option<&ServerName>,
        media_id: &str,
        quarantined: bool,
    ) -> Result<(), MediaError> {
        let done = self.inner.store.run(async |snapshot| {
            let mut transaction = Transaction::new();
            match server {
                None => {
                    let row = snapshot.get(&rows::MEDIA, media_id).await?.ok_or(MediaError::NotFound)?;
                    transaction.check_unchanged(&rows::MEDIA, media_id, Some(&row));
                    transaction.put(&rows::MEDIA, media_id, &MediaRow { quarantined, ..row });
                }
                Some(server) => {
                    let key = (server.as_str(), media_id);
                    let row = snapshot.get(&rows::REMOTE, key).await?;
                    transaction.check_unchanged(&rows::REMOTE, key, row.as_ref());
                    let row = MediaRow { quarantined, ..row.unwrap_or_default() };
                    if row.digest.is_none() && !quarantined {
                        transaction.delete(&rows::REMOTE, key);
                    } else {
                        transaction.put(&rows::REMOTE, key, &row);
                    }
                }
            }
            Ok::<_, MediaError>((transaction, ()))
        });
        done.await?;
        Ok(())
    }

    /// Deletes what is of no use any more: lapsed promises, old copies of other servers' media, broken uploads, content that nothing
    /// names.
    pub async fn sweep(&self) -> Result<(), MediaError> {
        let now = self.inner.environment.now().millis();
        self.lapse(now).await?;
        let before = |span: Duration| now.saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
        if let Some(lifetime) = self.inner.settings.remote_lifetime {
            self.delete_remote(before(lifetime.duration())).await?;
        }
        self.forget_previews(now).await?;
        let oldest = before(UNNAMED_FOR);
        self.inner.objects.delete_leftovers(oldest).await?;
        if !self.inner.owns_objects {
            return Ok(());
        }
        let mut all = pin!(self.inner.objects.all(oldest));
        while let Some(object) = all.try_next().await? {
            if !self.is_named(&object).await? {
                self.delete_unnamed(Some(object)).await;
            }
        }
        let mut drawn = pin!(self.inner.objects.all_drawn(oldest));
        while let Some(object) = drawn.try_next().await? {
            if !self.is_named(&object).await? {
                self.inner.objects.delete_thumbnails(&object).await?;
            }
        }
        Ok(())
    }

    /// Whether a row names an object.
    pub(crate) async fn is_named(&self, object: &str) -> Result<bool, MediaError> {
        let snapshot = self.inner.store.snapshot().await?;
        let row = snapshot.get(&rows::CONTENT, digest_of(object)).await?;
        Ok(row.is_some_and(|row| row.object == object))
    }

    /// Deletes an object that no row names, nor ever will: names are given once. What fails is left to the sweep.
    pub(crate) async fn delete_unnamed(&self, unnamed: Unnamed) {
        let Some(object) = unnamed else { return };
        if let Err(error) = self.inner.objects.delete(&object).await {
            tracing::warn!(%error, object, "content that nothing names is still in the media store");
        }
    }

    async fn delete_local_row(&self, media_id: &str) -> Result<Option<(MediaRow, Unnamed)>, MediaError> {
        let (deleted, _) = self
            .inner
            .store
            .run(async |snapshot| {
                let mut transaction = Transaction::new();
                let Some(row) = snapshot.get(&rows::MEDIA, media_id).await? else {
                    return Ok::<_, MediaError>((transaction, None));
                };
                transaction.check_unchanged(&rows::MEDIA, media_id, Some(&row));
                transaction.delete(&rows::MEDIA, media_id);
                let localpart = row.localpart.as_str();
                let before = usage(&snapshot, localpart).await?;
                let after = if row.digest.is_some() {
                    transaction.delete(&rows::MEDIA_OF_USERS, (localpart, row.created_at, media_id));
                    UsageRow { bytes: before.bytes.saturating_sub(row.size), ..before.clone() }
                } else {
                    transaction.delete(&rows::PENDING, (self.lapses_at(&row), media_id));
                    UsageRow { pending: before.pending.saturating_sub(1), ..before.clone() }
                };
                put_usage(&mut transaction, localpart, &before, after);
                let unnamed = unname_content(&snapshot, &mut transaction, &row).await?;
                Ok((transaction, Some((row, unnamed))))
            })
            .await?;
        Ok(deleted)
    }

    async fn delete_remote_row(
        &self,
        server: &str,
        media_id: &str,
    ) -> Result<Option<(MediaRow, Unnamed)>, MediaError> {
        let (deleted, _) = self
            .inner
            .store
            .run(async |snapshot| {
                let mut transaction = Transaction::new();
                let Some(row) = snapshot.get(&rows::REMOTE, (server, media_id)).await? else {
                    return Ok::<_, MediaError>((transaction, None));
                };
                transaction.check_unchanged(&rows::REMOTE, (server, media_id), Some(&row));
                transaction.delete(&rows::REMOTE, (server, media_id));
                let unnamed = unname_content(&snapshot, &mut transaction, &row).await?;
                Ok((transaction, Some((row, unnamed))))
            })
            .await?;
        Ok(deleted)
    }
}

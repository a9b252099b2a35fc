//! Uploads, also those that are promised first (C-S API, "Content repository").

use std::{pin::pin, time::Duration};

use bytes::Bytes;
use entente_environment::Timestamp;
use entente_storage::{Snapshot, Transaction};
use futures_util::{Stream, StreamExt};
use tokio::time::{Instant, timeout};

use crate::{
    Media, MediaError,
    objects::Came,
    rows::{self, ContentRow, MediaRow, UsageRow},
};

/// A media id has at most this many characters here; those that are given have 24.
pub(crate) const MOST_ID_BYTES: usize = 255;
/// The longest content type.
pub(crate) const MOST_TYPE_BYTES: usize = 255;
/// The longest name of a file.
pub(crate) const MOST_NAME_BYTES: usize = 1_024;
/// How long an upload waits for its place.
const LONGEST_QUEUE: Duration = Duration::from_secs(10);
/// What sends nothing for so long has ended.
const LONGEST_SILENCE: Duration = Duration::from_secs(30);

/// What is said of an upload beside its bytes.
#[derive(Clone, Debug, Default)]
pub struct NewMedia {
    /// The uploader's localpart.
    pub localpart: String,
    /// What its bytes are said to be.
    pub content_type: Option<String>,
    /// What the file is called.
    pub filename: Option<String>,
    /// How many bytes there will be, if that is known.
    pub announced_size: Option<u64>,
}

/// A media id whose content comes later.
#[derive(Clone, Debug)]
pub struct Promised {
    /// The id.
    pub media_id: String,
    /// When it lapses.
    pub lapses_at: Timestamp,
}

impl Media {
    /// Promises a media id (`POST /media/v1/create`).
    pub async fn promise(&self, localpart: &str) -> Result<Promised, MediaError> {
        let media_id = self.new_id();
        let now = self.inner.environment.now();
        let lapses_at = now.after(self.inner.settings.pending_upload_lifetime.duration());
        self.lapse(now.millis()).await?;
        self.inner
            .store
            .run(async |snapshot| {
                let usage = usage(&snapshot, localpart).await?;
                if usage.pending >= u64::from(self.inner.settings.max_pending_uploads.get()) {
                    return Err(MediaError::TooManyPending);
                }
                let mut transaction = Transaction::new();
                let row = MediaRow {
                    localpart: localpart.to_owned(),
                    created_at: now.millis(),
                    ..MediaRow::default()
                };
                transaction.check_absent(&rows::MEDIA, media_id.as_str());
                transaction.put(&rows::MEDIA, media_id.as_str(), &row);
                transaction.put(&rows::PENDING, (lapses_at.millis(), media_id.as_str()), &());
                put_usage(
                    &mut transaction,
                    localpart,
                    &usage,
                    UsageRow { pending: usage.pending + 1, ..usage },
                );
                Ok((transaction, ()))
            })
            .await?;
        Ok(Promised { media_id, lapses_at })
    }

    /// Takes in an upload (`POST /media/v3/upload`). Answers its media id.
    pub async fn upload<S, E>(&self, new: &NewMedia, body: S) -> Result<String, MediaError>
    where
        S: Stream<Item = Result<Bytes, E>>,
        E: std::fmt::Display,
    {
        let media_id = self.new_id();
        self.check(new)?;
        let usage = usage(&self.inner.store.snapshot().await?, &new.localpart).await?;
        self.take_in(new, &usage, body, async |came| self.name(&media_id, new, came).await).await?;
        Ok(media_id)
    }

    /// Takes in an upload that was promised (`PUT /media/v3/upload/{serverName}/{mediaId}`).
    pub async fn upload_promised<S, E>(
        &self,
        media_id: &str,
        new: &NewMedia,
        body: S,
    ) -> Result<(), MediaError>
    where
        S: Stream<Item = Result<Bytes, E>>,
        E: std::fmt::Display,
    {
        self.check(new)?;
        let snapshot = self.inner.store.snapshot().await?;
        self.promised(&snapshot, media_id, &new.localpart).await?;
        let usage = usage(&snapshot, &new.localpart).await?;
        self.take_in(new, &usage, body, async |came| self.keep_promise(media_id, new, came).await).await?;
        self.inner.uploaded.notify_waiters();
        Ok(())
    }

    fn new_id(&self) -> String {
        self.inner.environment.randomness().alphanumeric(24)
    }

    fn check(&self, new: &NewMedia) -> Result<(), MediaError> {
        let most = self.inner.settings.max_upload_size.as_u64();
        if new.announced_size.is_some_and(|size| size > most) {
            return Err(MediaError::TooLarge(most));
        }
        if new.content_type.as_ref().is_some_and(|content_type| content_type.len() > MOST_TYPE_BYTES) {
            return Err(MediaError::TooLong("a content type has at most 255 bytes"));
        }
        if new.filename.as_ref().is_some_and(|filename| filename.len() > MOST_NAME_BYTES) {
            return Err(MediaError::TooLong("a file's name has at most 1024 bytes"));
        }
        Ok(())
    }

    /// How many bytes more a user may keep.
    fn quota_left(&self, usage: &UsageRow) -> u64 {
        let most = self.inner.settings.max_user_storage.map_or(u64::MAX, entente_config::ByteSize::as_u64);
        most.saturating_sub(usage.bytes)
    }

    async fn take_in<S, E>(
        &self,
        new: &NewMedia,
        usage: &UsageRow,
        body: S,
        name: impl AsyncFnOnce(Came) -> Result<Unnamed, MediaError>,
    ) -> Result<(), MediaError>
    where
        S: Stream<Item = Result<Bytes, E>>,
        E: std::fmt::Display,
    {
        let settings = &self.inner.settings;
        let left = self.quota_left(usage);
        if new.announced_size.is_some_and(|size| size > left) {
            return Err(MediaError::QuotaExceeded);
        }
        let most = settings.max_upload_size.as_u64();
        let _place = self.inner.uploads.take(&new.localpart, Instant::now() + LONGEST_QUEUE).await?;
        let kept = timeout(settings.upload_timeout.duration(), self.keep(body, most.min(left), name));
        let size = match kept.await.map_err(|_| MediaError::SlowUpload)? {
            Err(MediaError::TooLarge(_)) if left < most => return Err(MediaError::QuotaExceeded),
            kept => kept?,
        };
        tracing::debug!(user.localpart = new.localpart, size, "media was uploaded");
        Ok(())
    }

    /// Streams content into the object store and has it named. Content that came before is kept where it is.
    pub(crate) async fn keep<S, E>(
        &self,
        body: S,
        most: u64,
        name: impl AsyncFnOnce(Came) -> Result<Unnamed, MediaError>,
    ) -> Result<u64, MediaError>
    where
        S: Stream<Item = Result<Bytes, E>>,
        E: std::fmt::Display,
    {
        let mut body = pin!(body);
        let mut writing = self.inner.objects.write(&self.new_id());
        while let Some(bytes) =
            timeout(LONGEST_SILENCE, body.next()).await.map_err(|_| MediaError::SlowUpload)?
        {
            let bytes = bytes.map_err(|error| MediaError::BrokenUpload(error.to_string()))?;
            writing.write(&bytes).await?;
            if writing.size() > most {
                return Err(MediaError::TooLarge(most));
            }
        }
        let came = writing.keep().await?;
        let (size, object) = (came.size, came.object.clone());
        match name(came).await {
            Ok(unnamed) => {
                self.delete_unnamed(unnamed).await;
                Ok(size)
            }
            // Whether it was named is not known then; the sweep will see.
            Err(error @ MediaError::Storage(_)) => Err(error),
            Err(error) => {
                self.delete_unnamed(Some(object)).await;
                Err(error)
            }
        }
    }

    async fn name(&self, media_id: &str, new: &NewMedia, came: Came) -> Result<Unnamed, MediaError> {
        let row = self.row(new, &came);
        let named = self.inner.store.run(async |snapshot| {
            let mut transaction = Transaction::new();
            transaction.check_absent(&rows::MEDIA, media_id);
            let unnamed = self.put_media(&snapshot, &mut transaction, media_id, &row, &came, 0).await?;
            Ok::<_, MediaError>((transaction, unnamed))
        });
        Ok(named.await?.0)
    }

    async fn keep_promise(&self, media_id: &str, new: &NewMedia, came: Came) -> Result<Unnamed, MediaError> {
        let row = self.row(new, &came);
        let named = self.inner.store.run(async |snapshot| {
            let promised = self.promised(&snapshot, media_id, &new.localpart).await?;
            let mut transaction = Transaction::new();
            transaction.check_unchanged(&rows::MEDIA, media_id, Some(&promised));
            transaction.delete(&rows::PENDING, (self.lapses_at(&promised), media_id));
            let row = MediaRow { quarantined: promised.quarantined, ..row.clone() };
            let unnamed = self.put_media(&snapshot, &mut transaction, media_id, &row, &came, 1).await?;
            Ok::<_, MediaError>((transaction, unnamed))
        });
        Ok(named.await?.0)
    }

    fn row(&self, new: &NewMedia, came: &Came) -> MediaRow {
        MediaRow {
            localpart: new.localpart.clone(),
            created_at: self.inner.environment.now().millis(),
            digest: Some(came.digest.clone()),
            size: came.size,
            content_type: new.content_type.clone(),
            filename: new.filename.clone(),
            quarantined: false,
        }
    }

    /// Adds the rows of a local upload. `kept` promises are kept by it.
    async fn put_media(
        &self,
        snapshot: &Snapshot,
        transaction: &mut Transaction,
        media_id: &str,
        row: &MediaRow,
        came: &Came,
        kept: u64,
    ) -> Result<Unnamed, MediaError> {
        let localpart = row.localpart.as_str();
        let before = usage(snapshot, localpart).await?;
        if row.size > self.quota_left(&before) {
            return Err(MediaError::QuotaExceeded);
        }
        let after = UsageRow {
            bytes: before.bytes.saturating_add(row.size),
            pending: before.pending.saturating_sub(kept),
        };
        put_usage(transaction, localpart, &before, after);
        transaction.put(&rows::MEDIA, media_id, row);
        transaction.put(&rows::MEDIA_OF_USERS, (localpart, row.created_at, media_id), &());
        name_content(snapshot, transaction, came).await
    }

    /// The row of a promised upload.
    async fn promised(
        &self,
        snapshot: &Snapshot,
        media_id: &str,
        localpart: &str,
    ) -> Result<MediaRow, MediaError> {
        if media_id.len() > MOST_ID_BYTES {
            return Err(MediaError::NotFound);
        }
        let row = snapshot.get(&rows::MEDIA, media_id).await?.ok_or(MediaError::NotFound)?;
        if row.localpart != localpart {
            return Err(MediaError::NotYours);
        }
        if row.digest.is_some() {
            return Err(MediaError::Overwrite);
        }
        if self.lapses_at(&row) <= self.inner.environment.now().millis() {
            return Err(MediaError::NotFound);
        }
        Ok(row)
    }

    pub(crate) fn lapses_at(&self, promised: &MediaRow) -> u64 {
        let lifetime = self.inner.settings.pending_upload_lifetime.duration();
        Timestamp(promised.created_at).after(lifetime).millis()
    }

    /// Forgets the promises that have lapsed.
    pub(crate) async fn lapse(&self, now: u64) -> Result<(), MediaError> {
        let snapshot = self.inner.store.snapshot().await?;
        let lapsed = snapshot.scan(&rows::PENDING.scan(()).limit(100)).await?.rows;
        for ((at, media_id), ()) in lapsed.into_iter().take_while(|((at, _), ())| *at <= now) {
            self.inner
                .store
                .run(async |snapshot| {
                    let mut transaction = Transaction::new();
                    transaction.delete(&rows::PENDING, (at, media_id.as_str()));
                    if let Some(row) = snapshot.get(&rows::MEDIA, media_id.as_str()).await?
                        && row.digest.is_none()
                    {
                        let before = usage(&snapshot, &row.localpart).await?;
                        let after = UsageRow { pending: before.pending.saturating_sub(1), ..before.clone() };
                        put_usage(&mut transaction, &row.localpart, &before, after);
                        transaction.check_unchanged(&rows::MEDIA, media_id.as_str(), Some(&row));
                        transaction.delete(&rows::MEDIA, media_id.as_str());
                    }
                    Ok::<_, MediaError>((transaction, ()))
                })
                .await?;
        }
        Ok(())
    }
}

pub(crate) async fn usage(snapshot: &Snapshot, localpart: &str) -> Result<UsageRow, MediaError> {
    Ok(snapshot.get(&rows::USAGE, localpart).await?.unwrap_or_default())
}

pub(crate) fn put_usage(transaction: &mut Transaction, localpart: &str, before: &UsageRow, after: UsageRow) {
    let was_there = (*before != UsageRow::default()).then_some(before);
    transaction.check_unchanged(&rows::USAGE, localpart, was_there);
    if after == UsageRow::default() {
        transaction.delete(&rows::USAGE, localpart);
    } else {
        transaction.put(&rows::USAGE, localpart, &after);
    }
}

/// The object that no row names when a transaction is through, if there is one.
pub(crate) type Unnamed = Option<String>;

/// Counts one media more of some content. If another object has it already, that one stays and what came is not named.
pub(crate) async fn name_content(
    snapshot: &Snapshot,
    transaction: &mut Transaction,
    came: &Came,
) -> Result<Unnamed, MediaError> {
    let digest = came.digest.as_str();
    let before = snapshot.get(&rows::CONTENT, digest).await?;
    transaction.check_unchanged(&rows::CONTENT, digest, before.as_ref());
    let (row, unnamed) = match before {
        Some(row) => (ContentRow { media: row.media.saturating_add(1), ..row }, Some(came.object.clone())),
        None => (ContentRow { media: 1, object: came.object.clone() }, None),
    };
    transaction.put(&rows::CONTENT, digest, &row);
    Ok(unnamed)
}

/// Counts one media less of its content. The last one takes the content along.
pub(crate) async fn unname_content(
    snapshot: &Snapshot,
    transaction: &mut Transaction,
    row: &MediaRow,
) -> Result<Unnamed, MediaError> {
    let Some(digest) = row.digest.as_deref() else { return Ok(None) };
    let Some(before) = snapshot.get(&rows::CONTENT, digest).await? else { return Ok(None) };
    transaction.check_unchanged(&rows::CONTENT, digest, Some(&before));
    if before.media <= 1 {
        transaction.delete(&rows::CONTENT, digest);
        return Ok(Some(before.object));
    }
    transaction.put(&rows::CONTENT, digest, &ContentRow { media: before.media - 1, ..before });
    Ok(None)
}

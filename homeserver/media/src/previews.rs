//! What pages say about themselves (C-S API, `GET /media/preview_url`): asked by the server in place of whoever sees a link.

pub(crate) mod page;

use std::{sync::Arc, time::Duration};

use entente_config::Previews as Settings;
use entente_outbound::{
    AddressPolicy, ClientSettings, FetchError, FetchLimits, Fetched, Fetcher, Route, SystemLookup, UrlPolicy,
    UrlRefused,
};
use entente_storage::Transaction;
use ruma::ServerName;
use serde_json::{Map, Value, json};
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};
use url::Url;

use self::page::Page;
use crate::{
    Media, MediaError, drawing,
    objects::Came,
    rows::{self, MediaRow, PreviewRow, UsageRow},
    upload::{MOST_TYPE_BYTES, Unnamed, name_content, put_usage, usage},
};

/// A longer URL is not previewed.
const MOST_URL_BYTES: usize = 2_048;
const MOST_REDIRECTS: usize = 5;
const IDLE_CONNECTIONS: usize = 1;
/// How long it is remembered that a page said nothing.
const FAILURE_LIFETIME: Duration = Duration::from_secs(10 * 60);
/// Pages that are asked at once.
const MOST_AT_ONCE: usize = 8;
/// How long somebody waits for a place among those for whom pages are asked.
const LONGEST_QUEUE: Duration = Duration::from_secs(10);
/// The localpart of whoever the pictures of pages are kept for.
const NOBODY: &str = "";
/// Rows that are looked at together.
const PAGE: usize = 500;

/// Asks pages.
#[derive(Debug)]
pub(crate) struct Asker {
    fetcher: Fetcher,
    places: Semaphore,
}

/// Why there is no preview.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PreviewError {
    /// Nobody's pages are asked here.
    #[error("this server makes no previews")]
    Disabled,
    /// The URL is none, or may not be asked.
    #[error("{0}")]
    Refused(String),
    /// The page did not answer, or not with something that can be previewed.
    #[error("there is no preview: {0}")]
    Failed(String),
    /// Keeping what it said failed.
    #[error(transparent)]
    Media(#[from] MediaError),
}

impl From<FetchError> for PreviewError {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Refused(refused) => refused.into(),
            error => Self::Failed(error.to_string()),
        }
    }
}

impl From<UrlRefused> for PreviewError {
    fn from(refused: UrlRefused) -> Self {
        Self::Refused(refused.to_string())
    }
}

impl From<entente_storage::StorageError> for PreviewError {
    fn from(error: entente_storage::StorageError) -> Self {
        Self::Media(error.into())
    }
}

impl Asker {
    /// `None` if nobody's pages are asked.
    pub(crate) fn new(settings: &Settings, route: Route) -> Result<Option<Self>, MediaError> {
        if !settings.enabled {
            return Ok(None);
        }
        let addresses = AddressPolicy::public_internet()
            .allowing(settings.allowed_address_ranges.iter().copied())
            .denying(settings.denied_address_ranges.iter().copied());
        let urls = UrlPolicy::new(Arc::new(addresses), &settings.further_ports);
        let timeout = settings.timeout.duration();
        let requests = ClientSettings {
            user_agent: settings.user_agent.clone(),
            connect_timeout: timeout,
            request_timeout: timeout,
            idle_connections: IDLE_CONNECTIONS,
            route,
        };
        let limits = FetchLimits { redirects: MOST_REDIRECTS, timeout };
        let fetcher = Fetcher::new(&requests, urls, Arc::new(SystemLookup), limits);
        let fetcher = fetcher.map_err(|error| MediaError::Objects(format!("previews: {error}")))?;
        Ok(Some(Self { fetcher, places: Semaphore::new(MOST_AT_ONCE) }))
    }
}

impl Media {
    /// What a page says about itself, as Open Graph names it. Asked once, and then remembered for a while.
    pub async fn preview(
        &self,
        url: &str,
        own_name: &ServerName,
    ) -> Result<Map<String, Value>, PreviewError> {
        let asker = self.inner.asker.as_ref().ok_or(PreviewError::Disabled)?;
        if url.len() > MOST_URL_BYTES {
            return Err(PreviewError::Refused(format!("a URL has at most {MOST_URL_BYTES} bytes")));
        }
        let mut url =
            Url::parse(url).map_err(|error| PreviewError::Refused(format!("that is no URL: {error}")))?;
        url.set_fragment(None);
        asker.fetcher.check(&url)?;
        if let Some(known) = self.known_preview(&url).await? {
            return known;
        }
        let lock = self.lock_for(format!("preview {url}"));
        let _turn = lock.lock().await;
        if let Some(known) = self.known_preview(&url).await? {
            return known;
        }
        let place = timeout(LONGEST_QUEUE, asker.places.acquire()).await;
        let _place = place.map_err(|_| MediaError::Busy)?.map_err(|_| MediaError::Busy)?;
        let made = self.ask(asker, &url, own_name).await;
        let (preview, error, lifetime) = match &made {
            Ok(preview) => (preview.clone(), None, self.inner.settings.previews.cache_lifetime.duration()),
            Err(PreviewError::Failed(error)) => (Map::new(), Some(error.clone()), FAILURE_LIFETIME),
            Err(_) => return made,
        };
        let row = PreviewRow {
            preview: Value::Object(preview).to_string(),
            error,
            expires_at: self.inner.environment.now().after(lifetime).millis(),
        };
        let mut transaction = Transaction::relaxed();
        transaction.put(&rows::PREVIEWS, url.as_str(), &row);
        self.inner.store.commit(transaction).await?;
        made
    }

    async fn known_preview(
        &self,
        url: &Url,
    ) -> Result<Option<Result<Map<String, Value>, PreviewError>>, PreviewError> {
        let snapshot = self.inner.store.snapshot().await?;
        let row = snapshot.get(&rows::PREVIEWS, url.as_str()).await?;
        let row = row.filter(|row| row.expires_at > self.inner.environment.now().millis());
        Ok(row.map(|row| match row.error {
            Some(error) => Err(PreviewError::Failed(error)),
            None => Ok(serde_json::from_str(&row.preview).unwrap_or_default()),
        }))
    }

    async fn ask(
        &self,
        asker: &Asker,
        url: &Url,
        own_name: &ServerName,
    ) -> Result<Map<String, Value>, PreviewError> {
        let settings = &self.inner.settings.previews;
        let bytes = |size: entente_config::ByteSize| size.as_usize();
        let accept = "text/html,application/xhtml+xml,image/*;q=0.9,*/*;q=0.1";
        let fetched = asker.fetcher.get(url, accept, bytes(settings.max_page_size)).await?;
        if is_picture(&fetched) {
            // The link is a picture itself; its beginning alone is of no use.
            let picture = asker.fetcher.get(url, "image/*", bytes(settings.max_image_size)).await?;
            let mut preview = Map::new();
            self.add_picture(&mut preview, picture, own_name).await?;
            return Ok(preview);
        }
        let content_type = fetched.content_type.as_deref().unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if !matches!(essence.as_str(), "text/html" | "application/xhtml+xml") {
            return Err(PreviewError::Failed(String::from("it is neither a page nor a picture")));
        }
        let (content_type, body) = (content_type.to_owned(), fetched.body.clone());
        let page = spawn_blocking(move || Page::read(&body, &content_type)).await;
        let page = page.map_err(|error| PreviewError::Failed(error.to_string()))?;
        let mut preview = page.open_graph();
        let picture = page.picture().and_then(|picture| fetched.url.join(&picture).ok());
        // Clients are told of the copy that is kept here, and of nothing that they would have to ask for themselves.
        preview.retain(|name, _| name != "og:image" && !name.starts_with("og:image:"));
        if let Some(picture) = picture {
            // A preview without its picture is better than none.
            let picture = asker.fetcher.get(&picture, "image/*", bytes(settings.max_image_size)).await;
            if let Ok(picture) = picture
                && is_picture(&picture)
                && let Err(error) = self.add_picture(&mut preview, picture, own_name).await
            {
                tracing::debug!(%error, "the picture of a preview cannot be kept");
            }
        }
        Ok(preview)
    }

    /// Keeps a picture as media of nobody, for as long as the preview is.
    async fn add_picture(
        &self,
        preview: &mut Map<String, Value>,
        picture: Fetched,
        own_name: &ServerName,
    ) -> Result<(), PreviewError> {
        if picture.is_cut_short {
            return Err(PreviewError::Failed(String::from("its picture is too large")));
        }
        let size = u64::try_from(picture.body.len()).unwrap_or(u64::MAX);
        let content_type = picture.content_type.filter(|content_type| content_type.len() <= MOST_TYPE_BYTES);
        let source = picture.body.clone();
        let dimensions = spawn_blocking(move || drawing::dimensions(&source)).await.unwrap_or_default();
        let media_id = self.inner.environment.randomness().alphanumeric(24);
        let row = MediaRow {
            created_at: self.inner.environment.now().millis(),
            content_type: content_type.clone(),
            ..MediaRow::default()
        };
        let body = futures_util::stream::iter([Ok::<_, String>(picture.body)]);
        self.keep(body, size, async |came: Came| self.name_picture(&media_id, row, came).await).await?;
        preview.insert(String::from("og:image"), json!(format!("mxc://{own_name}/{media_id}")));
        preview.insert(String::from("matrix:image:size"), json!(size));
        if let Some(content_type) = content_type {
            preview.insert(String::from("og:image:type"), json!(content_type));
        }
        if let Some((width, height)) = dimensions {
            preview.insert(String::from("og:image:width"), json!(width));
            preview.insert(String::from("og:image:height"), json!(height));
        }
        Ok(())
    }

    async fn name_picture(&self, media_id: &str, row: MediaRow, came: Came) -> Result<Unnamed, MediaError> {
        let most = self.inner.settings.previews.max_storage.as_u64();
        let row = MediaRow { digest: Some(came.digest.clone()), size: came.size, ..row };
        let named = self.inner.store.run(async |snapshot| {
            let before = usage(&snapshot, NOBODY).await?;
            let after = UsageRow { bytes: before.bytes.saturating_add(row.size), ..before.clone() };
            if after.bytes > most {
                return Err(MediaError::QuotaExceeded);
            }
            let mut transaction = Transaction::new();
            put_usage(&mut transaction, NOBODY, &before, after);
            transaction.check_absent(&rows::MEDIA, media_id);
            transaction.put(&rows::MEDIA, media_id, &row);
            transaction.put(&rows::MEDIA_OF_USERS, (NOBODY, row.created_at, media_id), &());
            let unnamed = name_content(&snapshot, &mut transaction, &came).await?;
            Ok((transaction, unnamed))
        });
        Ok(named.await?.0)
    }

    /// Deletes previews that are too old, and the pictures that were kept for them.
    pub(crate) async fn forget_previews(&self, now: u64) -> Result<(), MediaError> {
        let mut scan = rows::PREVIEWS.scan(()).limit(PAGE);
        loop {
            let page = self.inner.store.snapshot().await?.scan(&scan).await?;
            let mut transaction = Transaction::relaxed();
            for (url, row) in page.rows {
                if row.expires_at <= now {
                    transaction.delete(&rows::PREVIEWS, url.as_str());
                }
            }
            self.inner.store.commit(transaction).await?;
            match page.next {
                Some(next) => scan = rows::PREVIEWS.scan(()).limit(PAGE).resume(next),
                None => break,
            }
        }
        let lifetime = self.inner.settings.previews.cache_lifetime.duration();
        let oldest = now.saturating_sub(u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX));
        self.delete_of(NOBODY, oldest).await?;
        Ok(())
    }
}

fn is_picture(fetched: &Fetched) -> bool {
    let content_type = fetched.content_type.as_deref().unwrap_or_default().to_ascii_lowercase();
    // Drawings can be programs.
    content_type.starts_with("image/") && !content_type.starts_with("image/svg")
}

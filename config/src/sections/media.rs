//! `[media]`: where uploads and files fetched from other servers are kept.

use std::{num::NonZeroU32, path::PathBuf};

use serde::{Deserialize, Serialize};
use url::Url;

use super::{Previews, Thumbnails};
use crate::{
    validation::Contradictions,
    values::{ByteSize, Day, Secret, TimeSpan},
};

/// Which store keeps the media, how large they may be, and who may see them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Media {
    /// The store. Changing it does not move the media.
    pub store: MediaStore,
    /// The largest upload, in bytes; announced to clients as `m.upload.size`.
    pub max_upload_size: ByteSize,
    /// The largest file that is fetched from another server, in bytes.
    pub max_remote_size: ByteSize,
    /// How much one user may keep, in bytes; absent: any amount.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_user_storage: Option<ByteSize>,
    /// How many uploads one user may have announced and not begun.
    pub max_pending_uploads: NonZeroU32,
    /// How long an announced upload may wait.
    pub pending_upload_lifetime: TimeSpan,
    /// How many uploads are taken in at once, of all users together.
    pub max_uploads_at_once: NonZeroU32,
    /// How long one upload may take.
    pub upload_timeout: TimeSpan,
    /// How long a file fetched from another server is kept; absent: for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_lifetime: Option<TimeSpan>,
    /// Media that came before this day are served without an access token, too; absent: none are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unauthenticated_before: Option<Day>,
    /// Settings of the store `files`.
    pub files: FileMedia,
    /// Settings of the store `s3`.
    pub s3: S3Media,
    /// Small pictures of uploads.
    pub thumbnails: Thumbnails,
    /// What pages say about themselves.
    pub previews: Previews,
}

impl Default for Media {
    fn default() -> Self {
        Self {
            store: MediaStore::default(),
            max_upload_size: ByteSize::mebibytes(100),
            max_remote_size: ByteSize::mebibytes(100),
            max_user_storage: None,
            max_pending_uploads: NonZeroU32::new(20).expect("a constant above zero"),
            pending_upload_lifetime: TimeSpan::days(1),
            max_uploads_at_once: NonZeroU32::new(64).expect("a constant above zero"),
            upload_timeout: TimeSpan::hours(1),
            remote_lifetime: None,
            unauthenticated_before: None,
            files: FileMedia::default(),
            s3: S3Media::default(),
            thumbnails: Thumbnails::default(),
            previews: Previews::default(),
        }
    }
}

/// What keeps the media.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MediaStore {
    /// Files in a directory of this machine.
    #[default]
    Files,
    /// A bucket of a store that speaks the S3 protocol; several Entente nodes can share it.
    S3,
}

/// The store `files`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FileMedia {
    /// The directory; absent: `media` in the data directory. Read it through [`crate::Config::media_path`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
}

/// The store `s3`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct S3Media {
    /// Where the store is reached; absent: at Amazon, in the region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Url>,
    /// The bucket's name. Needed if it is the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
    /// What the names of all objects begin with; absent: nothing, the bucket is this server's alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The region that requests are signed for.
    pub region: String,
    /// The name of the access key. Needed if it is the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<String>,
    /// The access key. Needed if it is the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_access_key: Option<Secret>,
    /// Whether the bucket stands in the path (`host/bucket/…`) rather than in the host's name (`bucket.host/…`).
    pub path_style: bool,
}

impl Default for S3Media {
    fn default() -> Self {
        Self {
            endpoint: None,
            bucket: None,
            prefix: None,
            region: "us-east-1".to_owned(),
            access_key_id: None,
            secret_access_key: None,
            path_style: false,
        }
    }
}

impl Media {
    pub(crate) fn check(&self, found: &mut Contradictions) {
        if self.max_upload_size == ByteSize::bytes(0) {
            found.add(&["media.max_upload_size"], "nothing could be uploaded");
        }
        found.refuse_zero_spans(&[
            ("media.pending_upload_lifetime", Some(self.pending_upload_lifetime)),
            ("media.upload_timeout", Some(self.upload_timeout)),
            ("media.remote_lifetime", self.remote_lifetime),
        ]);
        self.thumbnails.check(found);
        self.previews.check(found);
        if let Some(endpoint) = &self.s3.endpoint
            && !matches!(endpoint.scheme(), "http" | "https")
        {
            found.add(&["media.s3.endpoint"], "an http or https address is needed");
        }
        if let Some(endpoint) = &self.s3.endpoint
            && !self.s3.path_style
            && endpoint.domain().is_none()
        {
            let message = "the bucket cannot be in the name of a host that has none; set media.s3.path_style";
            found.add(&["media.s3.endpoint", "media.s3.path_style"], message);
        }
        if self.s3.prefix.as_deref().is_some_and(|prefix| !is_prefix(prefix)) {
            found.add(&["media.s3.prefix"], "expected letters, digits and - _ . in parts between slashes");
        }
        if self.store != MediaStore::S3 {
            return;
        }
        let given = [
            ("media.s3.bucket", self.s3.bucket.as_ref().is_some_and(|bucket| !bucket.is_empty())),
            ("media.s3.access_key_id", self.s3.access_key_id.as_ref().is_some_and(|id| !id.is_empty())),
            ("media.s3.secret_access_key", self.s3.secret_access_key.is_some()),
        ];
        for (setting, _) in given.into_iter().filter(|(_, is_given)| !is_given) {
            found.add(&["media.store", setting], format!("the store \"s3\" needs {setting}"));
        }
    }
}

fn is_prefix(text: &str) -> bool {
    text.len() <= 255
        && text.split('/').all(|part| {
            !part.is_empty()
                && !matches!(part, "." | "..")
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        })
}

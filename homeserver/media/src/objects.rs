//! Content in the object store.

use std::{
    fmt::Write as _,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use entente_config::MediaStore;
use futures_util::{Stream, StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    GetOptions, GetRange, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, aws::AmazonS3Builder,
    local::LocalFileSystem, path::Path,
};
use sha2::{Digest, Sha256};
use tokio::{fs::File, io::AsyncWriteExt};

use crate::MediaError;

/// Where finished content is.
const CONTENT: &str = "content";
/// Where small pictures are, each under the digest of what it is made of.
const THUMBNAILS: &str = "thumbnails";
/// Where content is that is still coming.
const UPLOADS: &str = "uploads";
/// A part of an upload to S3, which takes none that is smaller than 5 MiB.
const PART: usize = 8 * 1024 * 1024;

/// The object store.
#[derive(Debug)]
pub(crate) struct Objects {
    store: Arc<dyn ObjectStore>,
    /// Where its files are, if it keeps files.
    directory: Option<PathBuf>,
}

/// Content that is coming. What is not kept is deleted when it is dropped.
pub(crate) struct Writing<'a> {
    objects: &'a Objects,
    digest: Sha256,
    size: u64,
    to: Destination,
}

enum Destination {
    File { file: File, path: TemporaryFile },
    Parts { name: Path, pending: Vec<u8>, upload: Option<Box<dyn MultipartUpload>> },
}

/// A file that is deleted unless it was moved away.
struct TemporaryFile(PathBuf);

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        // It may have been moved.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Came {
    /// The SHA-256 digest in hexadecimal digits.
    pub(crate) digest: String,
    /// Bytes.
    pub(crate) size: u64,
}

impl Objects {
    pub(crate) async fn open(
        settings: &entente_config::Media,
        directory: PathBuf,
    ) -> Result<Self, MediaError> {
        match settings.store {
            MediaStore::Files => {
                for part in [CONTENT, THUMBNAILS, UPLOADS] {
                    tokio::fs::create_dir_all(directory.join(part)).await?;
                }
                let store = Arc::new(LocalFileSystem::new_with_prefix(&directory)?);
                Ok(Self { store, directory: Some(directory) })
            }
            MediaStore::S3 => {
                let s3 = &settings.s3;
                let mut builder = AmazonS3Builder::new()
                    .with_bucket_name(s3.bucket.clone().unwrap_or_default())
                    .with_region(s3.region.clone())
                    .with_access_key_id(s3.access_key_id.clone().unwrap_or_default())
                    .with_virtual_hosted_style_request(!s3.path_style);
                if let Some(key) = &s3.secret_access_key {
                    builder = builder.with_secret_access_key(key.reveal());
                }
                if let Some(endpoint) = &s3.endpoint {
                    builder = builder
                        .with_endpoint(endpoint.as_str().trim_end_matches('/'))
                        .with_allow_http(endpoint.scheme() == "http");
                }
                Ok(Self { store: Arc::new(builder.build()?), directory: None })
            }
        }
    }

    /// Begins to take in content; `name` is nobody else's.
    pub(crate) async fn write(&self, name: &str) -> Result<Writing<'_>, MediaError> {
        let to = match &self.directory {
            Some(directory) => {
                let path = directory.join(UPLOADS).join(name);
                let file = File::create_new(&path).await?;
                Destination::File { file, path: TemporaryFile(path) }
            }
            None => Destination::Parts {
                name: Path::from_iter([UPLOADS, name]),
                pending: Vec::new(),
                upload: None,
            },
        };
        Ok(Writing { objects: self, digest: Sha256::new(), size: 0, to })
    }

    /// The bytes of some content from `start` on, `end` excluded.
    pub(crate) async fn read(
        &self,
        digest: &str,
        range: std::ops::Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, MediaError>>, MediaError> {
        if range.is_empty() {
            // An empty file; stores refuse empty ranges.
            self.store.head(&content(digest)).await?;
            return Ok(futures_util::stream::empty().boxed());
        }
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let found = self.store.get_opts(&content(digest), options).await?;
        Ok(found.into_stream().map_err(MediaError::from).boxed())
    }

    /// All of some content.
    pub(crate) async fn read_whole(&self, digest: &str) -> Result<Bytes, MediaError> {
        Ok(self.store.get(&content(digest)).await?.bytes().await?)
    }

    /// A small picture of some content, if it was made before.
    pub(crate) async fn thumbnail(&self, digest: &str, name: &str) -> Result<Option<Bytes>, MediaError> {
        match self.store.get(&thumbnail(digest, name)).await {
            Ok(found) => Ok(Some(found.bytes().await?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Keeps a small picture. It can be made again, so nothing waits for it to be on disk.
    pub(crate) async fn keep_thumbnail(
        &self,
        digest: &str,
        name: &str,
        picture: Bytes,
    ) -> Result<(), MediaError> {
        self.store.put(&thumbnail(digest, name), picture.into()).await?;
        Ok(())
    }

    /// Deletes content and the small pictures of it.
    pub(crate) async fn delete(&self, digest: &str) -> Result<(), MediaError> {
        let pictures = self.store.list(Some(&Path::from_iter([THUMBNAILS, digest])));
        let mut doomed: Vec<Path> = pictures.map_ok(|picture| picture.location).try_collect().await?;
        doomed.push(content(digest));
        for path in doomed {
            match self.store.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The digests of all content that is there, and when each came.
    pub(crate) fn all(&self) -> impl Stream<Item = Result<(String, ObjectMeta), MediaError>> + Send {
        self.store.list(Some(&Path::from(CONTENT))).map_err(MediaError::from).map_ok(|found| {
            let digest = found.location.parts().skip(1).map(|part| part.as_ref().to_owned()).collect();
            (digest, found)
        })
    }

    /// Deletes uploads that broke off before `oldest_ms` (since 1970): of a process that was killed.
    pub(crate) async fn delete_leftovers(&self, oldest_ms: u64) -> Result<(), MediaError> {
        let leftovers: Vec<ObjectMeta> = self.store.list(Some(&Path::from(UPLOADS))).try_collect().await?;
        for leftover in leftovers {
            if is_before(&leftover, oldest_ms) {
                self.store.delete(&leftover.location).await?;
            }
        }
        Ok(())
    }
}

/// Whether an object came before a time in ms since 1970.
pub(crate) fn is_before(object: &ObjectMeta, ms: u64) -> bool {
    u64::try_from(object.last_modified.timestamp_millis()).is_ok_and(|at| at < ms)
}

impl Writing<'_> {
    /// How many bytes came.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) async fn write(&mut self, bytes: &Bytes) -> Result<(), MediaError> {
        self.digest.update(bytes);
        self.size = self.size.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        match &mut self.to {
            Destination::File { file, .. } => file.write_all(bytes).await?,
            Destination::Parts { name, pending, upload } => {
                pending.extend_from_slice(bytes);
                if pending.len() >= PART {
                    let upload = match upload {
                        Some(upload) => upload,
                        None => upload.insert(self.objects.store.put_multipart(name).await?),
                    };
                    upload.put_part(std::mem::take(pending).into()).await?;
                }
            }
        }
        Ok(())
    }

    /// Puts what came where it stays, on disk.
    pub(crate) async fn keep(self) -> Result<Came, MediaError> {
        let came = Came { digest: hexadecimal(&self.digest.finalize()), size: self.size };
        let store = &self.objects.store;
        match (self.to, &self.objects.directory) {
            (Destination::File { mut file, path }, Some(directory)) => {
                file.flush().await?;
                file.sync_all().await?;
                move_durably(&path.0, directory, &came.digest).await?;
            }
            (Destination::Parts { pending, upload: None, .. }, _) => {
                store.put(&content(&came.digest), pending.into()).await?;
            }
            (Destination::Parts { name, pending, upload: Some(mut upload) }, _) => {
                if !pending.is_empty() {
                    upload.put_part(pending.into()).await?;
                }
                upload.complete().await?;
                store.copy(&name, &content(&came.digest)).await?;
                store.delete(&name).await?;
            }
            (Destination::File { .. }, None) => {
                return Err(MediaError::Objects(String::from("there is no directory for files")));
            }
        }
        Ok(came)
    }

    /// Throws away what came.
    pub(crate) async fn abort(self) {
        if let Destination::Parts { upload: Some(mut upload), .. } = self.to
            && let Err(error) = upload.abort().await
        {
            tracing::warn!(%error, "an upload that broke off is still in the bucket");
        }
    }
}

/// Moves a file to its place, so that it is there after a power cut.
async fn move_durably(from: &FilePath, directory: &FilePath, digest: &str) -> Result<(), MediaError> {
    let (prefix, rest) = digest.split_at(2);
    let contents = directory.join(CONTENT);
    let place = contents.join(prefix);
    tokio::fs::create_dir_all(&place).await?;
    tokio::fs::rename(from, place.join(rest)).await?;
    File::open(&place).await?.sync_all().await?;
    File::open(&contents).await?.sync_all().await?;
    Ok(())
}

fn content(digest: &str) -> Path {
    let (prefix, rest) = digest.split_at_checked(2).unwrap_or((digest, ""));
    Path::from_iter([CONTENT, prefix, rest])
}

fn thumbnail(digest: &str, name: &str) -> Path {
    Path::from_iter([THUMBNAILS, digest, name])
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

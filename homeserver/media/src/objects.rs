//! Content in the object store.

use std::{
    fmt::Write as _,
    io::{Read as _, Seek as _, SeekFrom},
    ops::Range,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use entente_config::{MediaStore, S3Media};
use futures_util::{Stream, StreamExt, TryStreamExt, stream, stream::BoxStream};
use object_store::{
    ClientOptions, GetOptions, GetRange, GetResult, GetResultPayload, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, aws::AmazonS3Builder, local::LocalFileSystem, path::Path,
    prefix::PrefixStore,
};
use sha2::{Digest, Sha256};
use tokio::{
    fs::File,
    io::{AsyncWriteExt, BufWriter},
    runtime::Handle,
    task::spawn_blocking,
};

use crate::{MediaError, drawing};

/// Where finished content is.
const CONTENT: &str = "content";
/// Where small pictures are, each under the name of what it is made of.
const THUMBNAILS: &str = "thumbnails";
/// Where content is that is still coming.
const UPLOADS: &str = "uploads";
/// What says whose the store is.
const OWNER: &str = "owner";
/// A part of an upload to S3, which takes none that is smaller than 5 MiB.
const PART: usize = 8 * 1024 * 1024;
/// Files are read and written in pieces of this many bytes, each on a blocking thread.
const PIECE: usize = 128 * 1024;
/// How long S3 may say nothing. A request as a whole takes as long as its reader wants.
const SILENCE: Duration = Duration::from_secs(30);

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
    name: String,
    digest: Sha256,
    size: u64,
    to: Destination,
}

enum Destination {
    File { file: BufWriter<File>, path: TemporaryFile },
    Parts(Parts),
}

/// A file that is deleted unless it was moved away.
struct TemporaryFile(PathBuf);

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.0);
        // It may have been moved.
        let delete = move || drop(std::fs::remove_file(path));
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(delete)),
            Err(_) => delete(),
        }
    }
}

/// An upload to S3, in parts if it is large. Parts that do not become an object are thrown away when it is dropped: the bucket would
/// keep them for ever.
struct Parts {
    name: Path,
    pending: Vec<u8>,
    upload: Option<Box<dyn MultipartUpload>>,
}

impl Drop for Parts {
    fn drop(&mut self) {
        let (Some(mut upload), Ok(runtime)) = (self.upload.take(), Handle::try_current()) else { return };
        runtime.spawn(async move {
            if let Err(error) = upload.abort().await {
                tracing::warn!(%error, "an upload that broke off is still in the bucket");
            }
        });
    }
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Came {
    /// The SHA-256 digest in hexadecimal digits.
    pub(crate) digest: String,
    /// Bytes.
    pub(crate) size: u64,
    /// The name of the object that has them: the digest, and what no other object has.
    pub(crate) object: String,
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
                let store = Arc::new(LocalFileSystem::new_with_prefix(&directory)?.with_fsync(true));
                Ok(Self { store, directory: Some(directory) })
            }
            MediaStore::S3 => Ok(Self { store: bucket(&settings.s3)?, directory: None }),
        }
    }

    /// Whose the store says that it is.
    pub(crate) async fn owner(&self) -> Result<Option<String>, MediaError> {
        match self.store.get(&Path::from(OWNER)).await {
            Ok(found) => Ok(Some(String::from_utf8_lossy(&found.bytes().await?).trim().to_owned())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Has the store say whose it is.
    pub(crate) async fn claim(&self, owner: &str) -> Result<(), MediaError> {
        self.store.put(&Path::from(OWNER), Bytes::from(owner.to_owned()).into()).await?;
        Ok(())
    }

    /// Whether any content is in it.
    pub(crate) async fn has_content(&self) -> Result<bool, MediaError> {
        Ok(self.store.list(Some(&Path::from(CONTENT))).try_next().await?.is_some())
    }

    /// Begins to take in content; `name` is nobody else's.
    pub(crate) async fn write(&self, name: &str) -> Result<Writing<'_>, MediaError> {
        let to = match &self.directory {
            Some(directory) => {
                let path = directory.join(UPLOADS).join(name);
                let file = BufWriter::with_capacity(PIECE, File::create_new(&path).await?);
                Destination::File { file, path: TemporaryFile(path) }
            }
            None => Destination::Parts(Parts {
                name: Path::from_iter([UPLOADS, name]),
                pending: Vec::new(),
                upload: None,
            }),
        };
        Ok(Writing { objects: self, name: name.to_owned(), digest: Sha256::new(), size: 0, to })
    }

    /// The bytes of some content from `start` on, `end` excluded.
    pub(crate) async fn read(
        &self,
        object: &str,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, MediaError>>, MediaError> {
        if range.is_empty() {
            // An empty file; stores refuse empty ranges.
            self.store.head(&content(object)).await?;
            return Ok(stream::empty().boxed());
        }
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        Ok(bytes_of(self.store.get_opts(&content(object), options).await?))
    }

    /// All of some content.
    pub(crate) async fn read_whole(&self, object: &str) -> Result<Bytes, MediaError> {
        Ok(self.store.get(&content(object)).await?.bytes().await?)
    }

    /// A small picture of some content, if it was made before. One that is broken was not.
    pub(crate) async fn thumbnail(&self, object: &str, name: &str) -> Result<Option<Bytes>, MediaError> {
        match self.store.get(&thumbnail(object, name)).await {
            Ok(found) => Ok(Some(found.bytes().await?).filter(|picture| drawing::is_picture(picture))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Keeps a small picture.
    pub(crate) async fn keep_thumbnail(
        &self,
        object: &str,
        name: &str,
        picture: Bytes,
    ) -> Result<(), MediaError> {
        self.store.put(&thumbnail(object, name), picture.into()).await?;
        Ok(())
    }

    /// Deletes content and the small pictures of it.
    pub(crate) async fn delete(&self, object: &str) -> Result<(), MediaError> {
        self.delete_path(&content(object)).await?;
        self.delete_thumbnails(object).await
    }

    /// Deletes the small pictures of some content.
    pub(crate) async fn delete_thumbnails(&self, object: &str) -> Result<(), MediaError> {
        let pictures = self.store.list(Some(&Path::from_iter([THUMBNAILS, object])));
        let doomed: Vec<Path> = pictures.map_ok(|picture| picture.location).try_collect().await?;
        for path in doomed {
            self.delete_path(&path).await?;
        }
        Ok(())
    }

    async fn delete_path(&self, path: &Path) -> Result<(), MediaError> {
        match self.store.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The names of all content that came before a time (ms since 1970).
    pub(crate) fn all(&self, before: u64) -> impl Stream<Item = Result<String, MediaError>> + Send {
        let found = self.store.list(Some(&Path::from(CONTENT))).map_err(MediaError::from);
        found.try_filter_map(move |found| async move {
            let name: String = found.location.parts().skip(1).map(|part| part.as_ref().to_owned()).collect();
            Ok(is_before(&found, before).then_some(name))
        })
    }

    /// The names of all content of which a small picture was made before a time (ms since 1970), each once for every picture.
    pub(crate) fn all_drawn(&self, before: u64) -> impl Stream<Item = Result<String, MediaError>> + Send {
        let found = self.store.list(Some(&Path::from(THUMBNAILS))).map_err(MediaError::from);
        found.try_filter_map(move |found| async move {
            let name = found.location.parts().nth(1).map(|part| part.as_ref().to_owned());
            Ok(name.filter(|_| is_before(&found, before)))
        })
    }

    /// Deletes uploads that broke off before `oldest_ms` (since 1970): of a process that was killed.
    pub(crate) async fn delete_leftovers(&self, oldest_ms: u64) -> Result<(), MediaError> {
        let leftovers: Vec<ObjectMeta> = self.store.list(Some(&Path::from(UPLOADS))).try_collect().await?;
        for leftover in leftovers {
            if is_before(&leftover, oldest_ms) {
                self.delete_path(&leftover.location).await?;
            }
        }
        Ok(())
    }
}

fn bucket(settings: &S3Media) -> Result<Arc<dyn ObjectStore>, MediaError> {
    let requests = ClientOptions::new().with_timeout_disabled().with_read_timeout(SILENCE);
    let mut builder = AmazonS3Builder::new()
        .with_client_options(requests)
        .with_bucket_name(settings.bucket.clone().unwrap_or_default())
        .with_region(settings.region.clone())
        .with_access_key_id(settings.access_key_id.clone().unwrap_or_default())
        .with_virtual_hosted_style_request(!settings.path_style);
    if let Some(key) = &settings.secret_access_key {
        builder = builder.with_secret_access_key(key.reveal());
    }
    if let Some(endpoint) = endpoint(settings) {
        builder = builder.with_allow_http(endpoint.starts_with("http://")).with_endpoint(endpoint);
    }
    let store = builder.build()?;
    match &settings.prefix {
        Some(prefix) => Ok(Arc::new(PrefixStore::new(store, prefix.as_str()))),
        None => Ok(Arc::new(store)),
    }
}

/// Where requests for the bucket go. `None`: where Amazon has it.
fn endpoint(settings: &S3Media) -> Option<String> {
    let endpoint = settings.endpoint.as_ref()?.as_str().trim_end_matches('/');
    match (&settings.bucket, endpoint.split_once("://")) {
        // `object_store` takes it for granted that the bucket is in the name.
        (Some(bucket), Some((scheme, host))) if !settings.path_style => {
            Some(format!("{scheme}://{bucket}.{host}"))
        }
        _ => Some(endpoint.to_owned()),
    }
}

fn bytes_of(found: GetResult) -> BoxStream<'static, Result<Bytes, MediaError>> {
    match found.payload {
        GetResultPayload::File(file, _) => pieces(file, found.range).boxed(),
        GetResultPayload::Stream(stream) => stream.map_err(MediaError::from).boxed(),
    }
}

/// The bytes of a file, in pieces that are worth the way to another thread and back.
fn pieces(file: std::fs::File, range: Range<u64>) -> impl Stream<Item = Result<Bytes, MediaError>> + Send {
    stream::try_unfold((file, range), |(file, range)| async move {
        if range.is_empty() {
            return Ok(None);
        }
        let read = spawn_blocking(move || next_piece(file, range)).await;
        let (piece, file, rest) = read.map_err(|error| MediaError::Objects(error.to_string()))??;
        Ok(Some((piece, (file, rest))))
    })
}

fn next_piece(
    mut file: std::fs::File,
    range: Range<u64>,
) -> std::io::Result<(Bytes, std::fs::File, Range<u64>)> {
    let size = usize::try_from(range.end - range.start).unwrap_or(PIECE).min(PIECE);
    let mut piece = vec![0; size];
    file.seek(SeekFrom::Start(range.start))?;
    file.read_exact(&mut piece)?;
    let read = u64::try_from(size).unwrap_or(u64::MAX);
    Ok((Bytes::from(piece), file, range.start.saturating_add(read)..range.end))
}

/// Whether an object came before a time in ms since 1970.
fn is_before(object: &ObjectMeta, ms: u64) -> bool {
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
            Destination::Parts(parts) => {
                parts.pending.extend_from_slice(bytes);
                if parts.pending.len() >= PART {
                    let upload = match &mut parts.upload {
                        Some(upload) => upload,
                        None => parts.upload.insert(self.objects.store.put_multipart(&parts.name).await?),
                    };
                    upload.put_part(std::mem::take(&mut parts.pending).into()).await?;
                }
            }
        }
        Ok(())
    }

    /// Puts what came where it stays, on disk.
    pub(crate) async fn keep(self) -> Result<Came, MediaError> {
        let digest = hexadecimal(&self.digest.finalize());
        let came = Came { object: format!("{digest}-{}", self.name), digest, size: self.size };
        let store = &self.objects.store;
        match (self.to, &self.objects.directory) {
            (Destination::File { mut file, path }, Some(directory)) => {
                file.flush().await?;
                file.get_ref().sync_all().await?;
                move_durably(&path.0, directory, &came.object).await?;
            }
            (Destination::Parts(mut parts), _) => {
                let last = std::mem::take(&mut parts.pending);
                let Some(upload) = &mut parts.upload else {
                    store.put(&content(&came.object), last.into()).await?;
                    return Ok(came);
                };
                if !last.is_empty() {
                    upload.put_part(last.into()).await?;
                }
                upload.complete().await?;
                parts.upload = None;
                store.copy(&parts.name, &content(&came.object)).await?;
                store.delete(&parts.name).await?;
            }
            (Destination::File { .. }, None) => {
                return Err(MediaError::Objects(String::from("there is no directory for files")));
            }
        }
        Ok(came)
    }
}

/// Moves a file to its place, so that it is there after a power cut.
async fn move_durably(from: &FilePath, directory: &FilePath, object: &str) -> Result<(), MediaError> {
    let (prefix, rest) = object.split_at(2);
    let contents = directory.join(CONTENT);
    let place = contents.join(prefix);
    tokio::fs::create_dir_all(&place).await?;
    tokio::fs::rename(from, place.join(rest)).await?;
    File::open(&place).await?.sync_all().await?;
    File::open(&contents).await?.sync_all().await?;
    Ok(())
}

/// The digest in the name of an object.
pub(crate) fn digest_of(object: &str) -> &str {
    object.split_once('-').map_or(object, |(digest, _)| digest)
}

fn content(object: &str) -> Path {
    let (prefix, rest) = object.split_at_checked(2).unwrap_or((object, ""));
    Path::from_iter([CONTENT, prefix, rest])
}

fn thumbnail(object: &str, name: &str) -> Path {
    Path::from_iter([THUMBNAILS, object, name])
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_is_named() {
        let of = |endpoint: Option<&str>, path_style| {
            let endpoint = endpoint.map(|endpoint| endpoint.parse().unwrap());
            let bucket = Some(String::from("media"));
            super::endpoint(&S3Media { endpoint, bucket, path_style, ..S3Media::default() })
        };
        assert_eq!(of(None, false), None);
        assert_eq!(
            of(Some("https://s3.example.org/"), false).as_deref(),
            Some("https://media.s3.example.org")
        );
        assert_eq!(
            of(Some("http://s3.example.org:9000"), true).as_deref(),
            Some("http://s3.example.org:9000")
        );
    }
}

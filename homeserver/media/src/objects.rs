//! Content in the object store.

use std::{
    fmt::{self, Write as _},
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    ops::Range,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use entente_config::{MediaStore, S3Media};
use futures_util::{Stream, StreamExt, TryStreamExt, stream, stream::BoxStream};
use object_store::{
    ClientOptions, GetOptions, GetRange, GetResult, GetResultPayload, MultipartId, ObjectMeta, ObjectStore,
    ObjectStoreExt,
    aws::AmazonS3Builder,
    local::LocalFileSystem,
    multipart::{MultipartStore, PartId},
    path::Path,
    prefix::PrefixStore,
};
use sha2::{Digest, Sha256};
use tokio::{runtime::Handle, task::spawn_blocking};

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
const PIECE: usize = 256 * 1024;
/// What the name of the object ends with that says of an upload to S3 under which id its parts are there.
const PARTS: &str = "-parts";
/// How long S3 may say nothing. A request as a whole takes as long as its reader wants.
const SILENCE: Duration = Duration::from_secs(30);

/// The object store.
#[derive(Debug)]
pub(crate) struct Objects {
    store: Arc<dyn ObjectStore>,
    place: Place,
}

/// Where the objects are.
#[derive(Debug)]
enum Place {
    /// In files, in a directory.
    Files(PathBuf),
    /// In a bucket, to which what is large comes in parts.
    Bucket(Bucket),
}

/// A bucket.
#[derive(Clone)]
struct Bucket {
    store: Arc<dyn ObjectStore>,
    parts: Arc<dyn MultipartStore>,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(formatter)
    }
}

/// Content that is coming. What is not kept is deleted when it is dropped.
pub(crate) struct Writing {
    size: u64,
    /// What came and was not written yet.
    pending: Vec<u8>,
    to: Destination,
}

enum Destination {
    /// `None` while a blocking thread has it, and for good when that failed.
    File(Option<NewFile>),
    Parts(Box<NewParts>),
}

/// Content that becomes a file.
struct NewFile {
    directory: PathBuf,
    name: String,
    digest: Sha256,
    /// There is none before there is a piece to write.
    file: Option<(File, TemporaryFile)>,
}

/// A file that is deleted unless it was moved to where it stays.
struct TemporaryFile(Option<PathBuf>);

impl TemporaryFile {
    fn keep_as(mut self, place: &FilePath) -> io::Result<()> {
        if let Some(path) = &self.0 {
            std::fs::rename(path, place)?;
        }
        self.0 = None;
        Ok(())
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let Some(path) = self.0.take() else { return };
        let delete = move || drop(std::fs::remove_file(path));
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(delete)),
            Err(_) => delete(),
        }
    }
}

/// Content that comes into a bucket, in parts if it is large. Parts that do not become an object are thrown away when it is dropped:
/// the bucket would keep them for ever. Of a process that is killed an object says that they are there.
struct NewParts {
    bucket: Bucket,
    name: String,
    digest: Sha256,
    upload: Option<(MultipartId, Vec<PartId>)>,
}

impl Drop for NewParts {
    fn drop(&mut self) {
        let (Some((id, _)), Ok(runtime)) = (self.upload.take(), Handle::try_current()) else { return };
        let (bucket, name) = (self.bucket.clone(), self.name.clone());
        runtime.spawn(async move {
            if let Err(error) = bucket.throw_away(&name, &id).await {
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
                let made = directory.clone();
                spawn_blocking(move || make_directories(&made)).await.map_err(stopped)??;
                let store = Arc::new(LocalFileSystem::new_with_prefix(&directory)?.with_fsync(true));
                Ok(Self { store, place: Place::Files(directory) })
            }
            MediaStore::S3 => Ok(Self::in_bucket(bucket(&settings.s3)?)),
        }
    }

    fn in_bucket(bucket: Bucket) -> Self {
        Self { store: Arc::clone(&bucket.store), place: Place::Bucket(bucket) }
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
    pub(crate) fn write(&self, name: &str) -> Writing {
        let (name, digest) = (name.to_owned(), Sha256::new());
        let to = match &self.place {
            Place::Files(directory) => {
                Destination::File(Some(NewFile { directory: directory.clone(), name, digest, file: None }))
            }
            Place::Bucket(bucket) => {
                Destination::Parts(Box::new(NewParts { bucket: bucket.clone(), name, digest, upload: None }))
            }
        };
        Writing { size: 0, pending: Vec::new(), to }
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
        for leftover in leftovers.into_iter().filter(|leftover| is_before(leftover, oldest_ms)) {
            let name = leftover.location.filename().and_then(|name| name.strip_suffix(PARTS));
            match (&self.place, name) {
                (Place::Bucket(bucket), Some(name)) => {
                    let id = self.store.get(&leftover.location).await?.bytes().await?;
                    bucket.throw_away(name, &String::from_utf8_lossy(&id).into_owned()).await?;
                }
                _ => self.delete_path(&leftover.location).await?,
            }
        }
        Ok(())
    }
}

impl Bucket {
    fn new(store: impl ObjectStore + MultipartStore) -> Self {
        let store = Arc::new(store);
        Self { store: Arc::clone(&store) as Arc<dyn ObjectStore>, parts: store }
    }

    /// Begins an upload in parts, and notes that there is one.
    async fn begin(&self, name: &str) -> Result<MultipartId, MediaError> {
        let id = self.parts.create_multipart(&upload(name)).await?;
        self.store.put(&noted_parts(name), Bytes::from(id.clone()).into()).await?;
        Ok(id)
    }

    /// Throws the parts of an upload away.
    async fn throw_away(&self, name: &str, id: &MultipartId) -> Result<(), MediaError> {
        match self.parts.abort_multipart(&upload(name), id).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.store.delete(&noted_parts(name)).await?)
    }
}

fn bucket(settings: &S3Media) -> Result<Bucket, MediaError> {
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
        Some(prefix) => Ok(Bucket::new(PrefixStore::new(store, prefix.as_str()))),
        None => Ok(Bucket::new(store)),
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
fn pieces(file: File, range: Range<u64>) -> impl Stream<Item = Result<Bytes, MediaError>> + Send {
    stream::try_unfold((file, range), |(file, range)| async move {
        if range.is_empty() {
            return Ok(None);
        }
        let read = spawn_blocking(move || next_piece(file, range)).await;
        let (piece, file, rest) = read.map_err(stopped)??;
        Ok(Some((piece, (file, rest))))
    })
}

fn next_piece(mut file: File, range: Range<u64>) -> io::Result<(Bytes, File, Range<u64>)> {
    let size = usize::try_from(range.end - range.start).unwrap_or(PIECE).min(PIECE);
    let mut piece = Vec::with_capacity(size);
    let size = u64::try_from(size).unwrap_or(u64::MAX);
    file.seek(SeekFrom::Start(range.start))?;
    (&file).take(size).read_to_end(&mut piece)?;
    if u64::try_from(piece.len()) != Ok(size) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((Bytes::from(piece), file, range.start.saturating_add(size)..range.end))
}

/// Whether an object came before a time in ms since 1970.
fn is_before(object: &ObjectMeta, ms: u64) -> bool {
    u64::try_from(object.last_modified.timestamp_millis()).is_ok_and(|at| at < ms)
}

impl Writing {
    /// How many bytes came.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) async fn write(&mut self, bytes: &Bytes) -> Result<(), MediaError> {
        self.size = self.size.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.pending.extend_from_slice(bytes);
        match &mut self.to {
            Destination::File(new) if self.pending.len() >= PIECE => {
                let (mut file, mut pending) = (taken(new)?, std::mem::take(&mut self.pending));
                let written = spawn_blocking(move || {
                    file.write(&pending)?;
                    pending.clear();
                    Ok::<_, io::Error>((file, pending))
                });
                let (file, pending) = written.await.map_err(stopped)??;
                (*new, self.pending) = (Some(file), pending);
            }
            Destination::File(_) => {}
            Destination::Parts(parts) => {
                parts.digest.update(bytes);
                if self.pending.len() >= PART {
                    parts.write(std::mem::take(&mut self.pending)).await?;
                }
            }
        }
        Ok(())
    }

    /// Puts what came where it stays, on disk.
    pub(crate) async fn keep(self) -> Result<Came, MediaError> {
        let (size, pending) = (self.size, self.pending);
        match self.to {
            Destination::File(mut new) => {
                let new = taken(&mut new)?;
                let kept = spawn_blocking(move || new.keep(&pending, size));
                Ok(kept.await.map_err(stopped)??)
            }
            Destination::Parts(parts) => parts.keep(pending, size).await,
        }
    }
}

fn taken(new: &mut Option<NewFile>) -> Result<NewFile, MediaError> {
    new.take().ok_or_else(|| MediaError::Objects(String::from("what came before could not be written")))
}

impl NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digest.update(bytes);
        let (file, _) = if let Some(file) = &mut self.file {
            file
        } else {
            let path = self.directory.join(UPLOADS).join(&self.name);
            let file = File::create_new(&path)?;
            self.file.insert((file, TemporaryFile(Some(path))))
        };
        file.write_all(bytes)
    }

    /// Writes the rest, and moves the file to its place, so that it is there after a power cut.
    fn keep(mut self, rest: &[u8], size: u64) -> io::Result<Came> {
        self.write(rest)?;
        let came = Came::new(self.digest, &self.name, size);
        let Some((file, path)) = self.file else { return Err(io::ErrorKind::NotFound.into()) };
        file.sync_all()?;
        let (prefix, rest) = came.object.split_at(2);
        let directory = self.directory.join(CONTENT).join(prefix);
        path.keep_as(&directory.join(rest))?;
        File::open(&directory)?.sync_all()?;
        Ok(came)
    }
}

/// Makes the directories, those for content among them: its objects are spread over one for each two digits that they begin with.
fn make_directories(directory: &FilePath) -> io::Result<()> {
    for part in [CONTENT, THUMBNAILS, UPLOADS] {
        std::fs::create_dir_all(directory.join(part))?;
    }
    let contents = directory.join(CONTENT);
    for prefix in 0..=u8::MAX {
        std::fs::create_dir_all(contents.join(hexadecimal(&[prefix])))?;
    }
    File::open(&contents)?.sync_all()?;
    File::open(directory)?.sync_all()
}

impl NewParts {
    async fn write(&mut self, part: Vec<u8>) -> Result<(), MediaError> {
        let (id, parts) = if let Some(upload) = &mut self.upload {
            upload
        } else {
            let id = self.bucket.begin(&self.name).await?;
            self.upload.insert((id, Vec::new()))
        };
        let name = upload(&self.name);
        parts.push(self.bucket.parts.put_part(&name, id, parts.len(), part.into()).await?);
        Ok(())
    }

    async fn keep(mut self: Box<Self>, rest: Vec<u8>, size: u64) -> Result<Came, MediaError> {
        let came = Came::new(std::mem::take(&mut self.digest), &self.name, size);
        let (store, name) = (Arc::clone(&self.bucket.store), upload(&self.name));
        if self.upload.is_none() {
            store.put(&content(&came.object), rest.into()).await?;
            return Ok(came);
        }
        if !rest.is_empty() {
            self.write(rest).await?;
        }
        if let Some((id, parts)) = &mut self.upload {
            self.bucket.parts.complete_multipart(&name, id, std::mem::take(parts)).await?;
            self.upload = None;
        }
        store.copy(&name, &content(&came.object)).await?;
        store.delete(&name).await?;
        store.delete(&noted_parts(&self.name)).await?;
        Ok(came)
    }
}

impl Came {
    fn new(digest: Sha256, name: &str, size: u64) -> Self {
        let digest = hexadecimal(&digest.finalize());
        Self { object: format!("{digest}-{name}"), digest, size }
    }
}

fn stopped(error: tokio::task::JoinError) -> MediaError {
    MediaError::Objects(error.to_string())
}

/// The digest in the name of an object.
pub(crate) fn digest_of(object: &str) -> &str {
    object.split_once('-').map_or(object, |(digest, _)| digest)
}

fn content(object: &str) -> Path {
    let (prefix, rest) = object.split_at_checked(2).unwrap_or((object, ""));
    Path::from_iter([CONTENT, prefix, rest])
}

/// Where content is while it comes.
fn upload(name: &str) -> Path {
    Path::from_iter([UPLOADS, name])
}

/// Where it is noted that parts of an upload are in the bucket.
fn noted_parts(name: &str) -> Path {
    Path::from_iter([UPLOADS, &format!("{name}{PARTS}")])
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
    use object_store::memory::InMemory;

    use super::*;

    /// A process that is killed neither goes on nor tidies up.
    #[tokio::test]
    async fn what_a_killed_process_leaves_in_a_bucket_is_thrown_away() {
        let bucket = Bucket::new(InMemory::new());
        let objects = Objects::in_bucket(bucket.clone());
        let mut writing = objects.write("killed");
        for _ in 0..2 {
            writing.write(&Bytes::from(vec![7; PART])).await.unwrap();
        }
        let Destination::Parts(parts) = &mut writing.to else { panic!("it is a bucket") };
        let (id, parts) = parts.upload.take().unwrap();
        drop(writing);
        let noted = bucket.store.get(&Path::from("uploads/killed-parts")).await.unwrap();
        assert_eq!(noted.bytes().await.unwrap(), id.as_bytes());
        objects.delete_leftovers(1).await.unwrap();
        assert!(bucket.store.head(&noted_parts("killed")).await.is_ok(), "it may be on its way");
        objects.delete_leftovers(u64::MAX).await.unwrap();
        assert!(bucket.store.head(&noted_parts("killed")).await.is_err());
        let late = bucket.parts.complete_multipart(&upload("killed"), &id, parts).await;
        assert!(late.is_err(), "its parts are gone");
    }

    #[tokio::test]
    async fn what_comes_is_what_is_kept() {
        let directory = tempfile::TempDir::new().unwrap();
        let settings = entente_config::Media::default();
        let files = Objects::open(&settings, directory.path().to_owned()).await.unwrap();
        let bucket = Objects::in_bucket(Bucket::new(InMemory::new()));
        for objects in [&files, &bucket] {
            for size in [0, 1, PIECE - 1, PIECE, 3 * PIECE + 1, PART, PART + 1] {
                let all: Vec<u8> = (0..=250).cycle().take(size).collect();
                let mut writing = objects.write(&size.to_string());
                for chunk in all.chunks(100_000) {
                    writing.write(&Bytes::copy_from_slice(chunk)).await.unwrap();
                }
                let came = writing.keep().await.unwrap();
                assert_eq!(came.size, u64::try_from(size).unwrap());
                assert_eq!(came.digest, hexadecimal(&Sha256::digest(&all)));
                let read = objects.read(&came.object, 0..came.size).await.unwrap();
                let read: Vec<Bytes> = read.try_collect().await.unwrap();
                assert!(read.concat() == all, "{size} bytes");
            }
            objects.write("never kept").write(&Bytes::from(vec![7; PIECE])).await.unwrap();
        }
        let uploads = directory.path().join(UPLOADS);
        while std::fs::read_dir(&uploads).unwrap().count() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

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

//! The file on disk: written under a temporary name, and given its own when it is whole and durable. All of it blocks.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, BufWriter},
    path::{Path, PathBuf},
};

const BUFFER_BYTES: usize = 256 * 1024;

/// A file that is being written. Goes when it is dropped before [`PartialFile::complete`]; what a process that died left
/// behind is overwritten by the next one.
pub(super) struct PartialFile {
    destination: PathBuf,
    temporary: PathBuf,
    completed: bool,
    /// Held until the file has its own name or is gone: nobody else writes under the temporary one meanwhile.
    _lock: File,
}

impl PartialFile {
    /// Creates the file beside its destination. Only its owner may read it: a backup holds every secret of the store.
    pub(super) fn create(destination: &Path) -> io::Result<(Self, BufWriter<File>)> {
        let name = destination
            .file_name()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the backup needs a file name"))?;
        let mut temporary_name = name.to_owned();
        temporary_name.push(".partial");
        let temporary = destination.with_file_name(temporary_name);
        let mut options = OpenOptions::new();
        // Not truncated before it is known to be nobody's.
        options.write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&temporary)?;
        if file.try_lock().is_err() || !is_still_at(&file, &temporary) {
            let message = "another backup is being written to the same place";
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
        }
        let partial = Self {
            destination: destination.to_owned(),
            temporary,
            completed: false,
            _lock: file.try_clone()?,
        };
        file.set_len(0)?;
        Ok((partial, BufWriter::with_capacity(BUFFER_BYTES, file)))
    }

    /// Makes the file durable under its own name, in place of what had that name. Answers its length in bytes.
    pub(super) fn complete(mut self, output: BufWriter<File>) -> io::Result<u64> {
        let file = output.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        std::fs::rename(&self.temporary, &self.destination)?;
        self.completed = true;
        sync_directory_of(&self.destination)?;
        Ok(file.metadata()?.len())
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if !self.completed
            && let Err(error) = std::fs::remove_file(&self.temporary)
        {
            tracing::warn!(%error, path = %self.temporary.display(), "an unfinished backup stays behind");
        }
    }
}

/// Whether nobody completed or removed the file between its opening and its locking.
#[cfg(unix)]
fn is_still_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;

    let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    let there = std::fs::symlink_metadata(path).map(identity);
    there.is_ok_and(|there| file.metadata().map(identity).is_ok_and(|ours| ours == there))
}

/// Elsewhere a file that is open can be neither renamed nor removed.
#[cfg(not(unix))]
fn is_still_at(_: &File, _: &Path) -> bool {
    true
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

/// Opens a backup for reading. Answers its length in bytes, too.
pub(super) fn open(path: &Path) -> io::Result<(BufReader<File>, u64)> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    Ok((BufReader::with_capacity(BUFFER_BYTES, file), length))
}

//! The file on disk: written under a temporary name, and given its own when it is whole and durable. All of it blocks.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, BufWriter},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

const BUFFER_BYTES: usize = 256 * 1024;

/// A file that is being written. Goes when it is dropped before [`PartialFile::complete`].
pub(super) struct PartialFile {
    destination: PathBuf,
    temporary: PathBuf,
    completed: bool,
}

impl PartialFile {
    /// Creates the file beside its destination. Only its owner may read it: a backup holds every secret of the store.
    pub(super) fn create(destination: &Path) -> io::Result<(Self, BufWriter<File>)> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = destination
            .file_name()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the backup needs a file name"))?;
        let mut temporary_name = name.to_owned();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        temporary_name.push(format!(".{}-{number}.partial", std::process::id()));
        let temporary = destination.with_file_name(temporary_name);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&temporary)?;
        let partial = Self { destination: destination.to_owned(), temporary, completed: false };
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

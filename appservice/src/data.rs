//! The directory with everything that a service keeps, for one process at a time.

use std::{
    fs::{DirBuilder, File, TryLockError},
    io,
    path::Path,
};

use tokio::io::AsyncWriteExt as _;

/// The file that a running process locks.
const LOCK: &str = "lock";

/// Why a data directory cannot be used.
#[derive(Debug)]
pub(crate) enum DataError {
    /// Another process has it.
    InUse,
    /// It cannot be made, or not be written to.
    Io(io::Error),
}

/// Makes the directory, which nobody else may enter: the keys of devices are in it. Answers the lock, which holds as long as the file is
/// open, and so ends with the process, however that ends.
pub(crate) fn take(directory: &Path) -> Result<File, DataError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory).map_err(DataError::Io)?;
    close(directory);
    let lock = File::options().create(true).append(true).open(directory.join(LOCK)).map_err(DataError::Io)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(DataError::InUse),
        Err(TryLockError::Error(error)) => Err(DataError::Io(error)),
    }
}

/// Closes a directory to others that was there already.
#[cfg(unix)]
fn close(directory: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let permissions = std::fs::Permissions::from_mode(0o700);
    if let Err(error) = std::fs::set_permissions(directory, permissions) {
        tracing::warn!(%error, "the data directory cannot be closed to other users");
    }
}

#[cfg(not(unix))]
fn close(_: &Path) {}

/// Writes a file that only its owner may read. An existing one is not touched.
pub(crate) async fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    let mut options = tokio::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    options.mode(0o600);
    let mut file = options.open(path).await?;
    file.write_all(text.as_bytes()).await?;
    file.sync_all().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_for_one_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("a/b");
        let taken = take(&data).unwrap();
        assert!(matches!(take(&data), Err(DataError::InUse)));
        drop(taken);
        take(&data).unwrap();
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn others_can_read_nothing() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let open = directory.path().join("data");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let _lock = take(&open).unwrap();
        assert_eq!(mode(&open), 0o700);
        let secret = open.join("secret");
        write_secret(&secret, "x").await.unwrap();
        assert_eq!(mode(&secret), 0o600);
        assert!(write_secret(&secret, "y").await.is_err(), "a secret in use is kept");
    }
}

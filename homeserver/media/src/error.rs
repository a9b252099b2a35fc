use entente_storage::StorageError;

use crate::RemoteError;

/// Why something about media could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MediaError {
    /// There is no such media here.
    #[error("there is no such media")]
    NotFound,
    /// It was promised, and has not come yet.
    #[error("the media has not been uploaded yet")]
    NotYetUploaded,
    /// The media id is somebody else's.
    #[error("this media id was not given to you")]
    NotYours,
    /// Media are never changed.
    #[error("this media was uploaded already")]
    Overwrite,
    /// The upload is larger than is allowed.
    #[error("the largest upload is {0} bytes")]
    TooLarge(u64),
    /// The user keeps as much as one user may.
    #[error("your uploads take up as much as one user may have")]
    QuotaExceeded,
    /// The user was promised as many uploads as one user may be.
    #[error("you have announced as many uploads as one can: put some of them up, or wait until they lapse")]
    TooManyPending,
    /// A name or a type is longer than is kept.
    #[error("{0}")]
    TooLong(&'static str),
    /// The upload broke off.
    #[error("the upload broke off: {0}")]
    BrokenUpload(String),
    /// The upload took too long.
    #[error("the upload took too long")]
    SlowUpload,
    /// No picture of it can be made.
    #[error("no thumbnail can be made of it: {0}")]
    NotDrawable(String),
    /// Making a picture of it takes too much.
    #[error("making a thumbnail of it takes too much: {0}")]
    TooMuchToDraw(String),
    /// As much is done as can be at once.
    #[error("too many uploads, or thumbnails, are under way")]
    Busy,
    /// Another server has it, and did not give it.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The object store failed.
    #[error("the media store: {0}")]
    Objects(String),
    /// The object store is not this database's.
    #[error("{0}")]
    ForeignStore(String),
    /// The storage failed or is unavailable.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<object_store::Error> for MediaError {
    fn from(error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { .. } => Self::NotFound,
            error => Self::Objects(error.to_string()),
        }
    }
}

impl From<std::io::Error> for MediaError {
    fn from(error: std::io::Error) -> Self {
        Self::Objects(error.to_string())
    }
}

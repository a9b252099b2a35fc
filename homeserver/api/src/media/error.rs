use std::time::Duration;

use axum::http::StatusCode;
use entente_media::{MediaError, PreviewError, RemoteError};

use crate::MatrixError;

/// Uploads that were announced come by and by, or lapse.
const PENDING_RETRY_AFTER: Duration = Duration::from_secs(60);

impl From<MediaError> for MatrixError {
    fn from(error: MediaError) -> Self {
        let message = error.to_string();
        let (status, errcode) = match error {
            MediaError::NotFound | MediaError::Remote(RemoteError::NotFound(_)) => {
                (StatusCode::NOT_FOUND, "M_NOT_FOUND")
            }
            MediaError::NotYetUploaded | MediaError::Remote(RemoteError::NotYetUploaded(_)) => {
                (StatusCode::GATEWAY_TIMEOUT, "M_NOT_YET_UPLOADED")
            }
            MediaError::NotYours
            | MediaError::QuotaExceeded
            | MediaError::Remote(RemoteError::Refused(_)) => (StatusCode::FORBIDDEN, "M_FORBIDDEN"),
            MediaError::Overwrite => (StatusCode::CONFLICT, "M_CANNOT_OVERWRITE_MEDIA"),
            MediaError::TooLarge(_) | MediaError::TooMuchToDraw(_) => {
                (StatusCode::PAYLOAD_TOO_LARGE, "M_TOO_LARGE")
            }
            MediaError::TooManyPending => return Self::limit_exceeded(PENDING_RETRY_AFTER).saying(&message),
            MediaError::TooLong(_) => (StatusCode::BAD_REQUEST, "M_INVALID_PARAM"),
            MediaError::BrokenUpload(_) | MediaError::NotDrawable(_) => {
                (StatusCode::BAD_REQUEST, "M_UNKNOWN")
            }
            MediaError::SlowUpload => (StatusCode::REQUEST_TIMEOUT, "M_UNKNOWN"),
            MediaError::Busy => return Self::unavailable(&message),
            MediaError::Remote(RemoteError::TooLarge(_)) => (StatusCode::BAD_GATEWAY, "M_TOO_LARGE"),
            MediaError::Remote(_) => (StatusCode::BAD_GATEWAY, "M_UNKNOWN"),
            MediaError::Storage(error) => return error.into(),
            error => return Self::internal(error),
        };
        Self::new(status, errcode, message)
    }
}

impl From<PreviewError> for MatrixError {
    fn from(error: PreviewError) -> Self {
        let message = error.to_string();
        match error {
            PreviewError::Disabled => Self::unrecognized(),
            PreviewError::Refused(_) => Self::forbidden(&message),
            PreviewError::Failed(_) => Self::new(StatusCode::BAD_GATEWAY, "M_UNKNOWN", message),
            PreviewError::Media(error) => error.into(),
            error => Self::internal(error),
        }
    }
}

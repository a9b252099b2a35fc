use std::time::Duration;

use entente_environment::Timestamp;
use entente_rooms::RoomError;
use entente_storage::StorageError;
use ruma::{OwnedServerName, RoomVersionId};

/// Why something between this server and another did not happen. `entente-api` states the status and the error code of each.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FederationError {
    /// The policy of this server does not let it speak to the other one: 403 `M_FORBIDDEN`.
    #[error("this server does not speak to {0}")]
    Refused(OwnedServerName),
    /// Nobody asks this server to ask itself: 400 `M_INVALID_PARAM`.
    #[error("this server does not ask itself")]
    OwnServer,
    /// The server did not answer lately, and is left alone for a while: 502 `M_UNKNOWN`.
    #[error("{server} did not answer lately and will not be asked before {until:?}")]
    BackingOff {
        /// Which.
        server: OwnedServerName,
        /// Until when.
        until: Timestamp,
    },
    /// The server could not be found or connected to: 502 `M_UNKNOWN`.
    #[error("{server} cannot be reached: {reason}")]
    Unreachable {
        /// Which.
        server: OwnedServerName,
        /// In words.
        reason: String,
    },
    /// The server took too long: 504 `M_UNKNOWN`.
    #[error("{0} took too long to answer")]
    TimedOut(OwnedServerName),
    /// The server refused: 404 `M_NOT_FOUND` if it did not find what was asked, otherwise 502 `M_UNKNOWN`.
    #[error("{server} answered {status} {errcode}: {message}")]
    Status {
        /// Which.
        server: OwnedServerName,
        /// The status of its answer.
        status: u16,
        /// The error code of its answer; empty if it has none.
        errcode: String,
        /// What it says, shortened.
        message: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The server answered something that is no answer: 502 `M_UNKNOWN`.
    #[error("{server} did not answer as it should: {reason}")]
    BadAnswer {
        /// Which.
        server: OwnedServerName,
        /// In words.
        reason: String,
    },
    /// A request of another server does not prove who it comes from: 401 `M_UNAUTHORIZED`.
    #[error("{0}")]
    Unauthenticated(String),
    /// A body that is not canonical JSON, and so cannot have been signed: 400 `M_NOT_JSON`.
    #[error("the body is not canonical JSON: {0}")]
    NotJson(String),
    /// More than one request may ask for: 400 `M_INVALID_PARAM`.
    #[error("{0}")]
    TooMuch(&'static str),
    /// An identity server that the operator does not name: 403 `M_SERVER_NOT_TRUSTED`.
    #[error("this server does not speak to that identity server")]
    IdentityServerNotTrusted,
    /// An identity server did not do what it was asked for: 502 `M_UNKNOWN`.
    #[error("the identity server {server}: {reason}")]
    IdentityServer {
        /// Which.
        server: String,
        /// The status of its answer; `None`: there was none, or none that makes sense.
        status: Option<u16>,
        /// In words.
        reason: String,
    },
    /// A file that the settings name cannot be used.
    #[error("{0}")]
    Settings(String),
    /// A room refuses it.
    #[error(transparent)]
    Room(#[from] RoomError),
    /// An event that a server must not send, or not here: 400 `M_INVALID_PARAM`.
    #[error("{0}")]
    BadEvent(&'static str),
    /// The asking server does not have the room's version: 400 `M_INCOMPATIBLE_ROOM_VERSION`.
    #[error("the room has version {0}, which the other server does not have")]
    IncompatibleVersion(RoomVersionId),
    /// No server let the user do it: as the last one that was asked answered, 502 `M_UNKNOWN` if none did.
    #[error("no server that could be asked is in that room")]
    NobodyToAsk,
    /// The storage failed or is unavailable.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A mistake of ours.
    #[error("internal error: {0}")]
    Internal(String),
}

impl FederationError {
    /// Whether the same may go well in a while: the other server could not be asked, or has trouble of its own.
    pub(crate) fn may_pass(&self) -> bool {
        self.may_pass_soon() || matches!(self, Self::TimedOut(_))
    }

    /// Whether it may go well in a moment, for which whoever asked can wait. A server that let us wait for an answer would again.
    pub(crate) fn may_pass_soon(&self) -> bool {
        matches!(
            self,
            Self::BackingOff { .. } | Self::Unreachable { .. } | Self::Status { status: 429 | 500.., .. }
        )
    }
}

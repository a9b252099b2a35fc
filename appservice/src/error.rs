use std::time::Duration;

use matrix_sdk::ruma::{OwnedRoomId, OwnedUserId};

use crate::store::StoreError;

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The homeserver said no.
    #[error("the homeserver answered {status} {errcode}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The Matrix error code, or `M_UNKNOWN` if there was none.
        errcode: String,
        /// What it said for people, at most 1024 bytes.
        message: String,
    },
    /// The homeserver could not be reached, or was overloaded, for as long as was waited.
    #[error("the homeserver could not be reached for {} s: {reason}", waited.as_secs())]
    Unreachable {
        /// How long it was tried.
        waited: Duration,
        /// What went wrong the last time.
        reason: String,
    },
    /// The homeserver answered something that this crate does not understand.
    #[error("the homeserver's answer cannot be read: {0}")]
    Answer(String),
    /// The answer is larger than what was allowed.
    #[error("the homeserver's answer is larger than {limit} bytes")]
    TooLarge {
        /// What was allowed, in bytes.
        limit: usize,
    },
    /// A request cannot be put in words: a content that is no JSON, an identifier that fits in no URL.
    #[error("the request cannot be made: {0}")]
    Request(String),
    /// What the application service remembers cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The room is encrypted, and this user has no encryption. Nothing is sent in the clear instead.
    #[error("{room_id} is encrypted and {user_id} is not set up for encryption")]
    NotEncrypting {
        /// The user who should have sent something.
        user_id: OwnedUserId,
        /// The room.
        room_id: OwnedRoomId,
    },
    /// The bot left the room or was removed from it, or was invited by somebody who may not. It comes back when it is invited by somebody
    /// who may, or with [`InRoom::join`](crate::InRoom::join).
    #[error("the bot stays away from {room_id} until it is invited")]
    StaysAway {
        /// The room.
        room_id: OwnedRoomId,
    },
    /// Keys or ciphertext are not as they must be.
    #[error("encryption: {0}")]
    Encryption(String),
    /// The service is shutting down.
    #[error("the service is shutting down")]
    ShuttingDown,
}

impl Error {
    /// Whether the same may work later: the homeserver is away, overloaded or broken, or this service is stopping.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::ShuttingDown => true,
            Self::Store(error) => error.is_temporary(),
            Self::Refused { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }

    /// Whether the homeserver answered with this Matrix error code.
    pub fn is(&self, code: &str) -> bool {
        matches!(self, Self::Refused { errcode, .. } if errcode == code)
    }

    pub(crate) fn encryption(error: impl std::fmt::Display) -> Self {
        Self::Encryption(error.to_string())
    }
}

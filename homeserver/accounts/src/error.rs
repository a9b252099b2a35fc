use std::time::Duration;

use entente_storage::StorageError;
use ruma::api::client::uiaa::UiaaInfo;

/// Why an operation on accounts was refused. `entente-api` states the status and the error code of each.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccountError {
    /// More proof of who is asking is needed; the client is told which.
    #[error("user-interactive authentication is not complete")]
    Interactive(Box<UiaaInfo>),
    /// Nobody may register here without a token, and tokens are not accepted.
    #[error("registration is closed on this server")]
    RegistrationClosed,
    /// Guests are not served.
    #[error("guest access is disabled on this server")]
    GuestsRefused,
    /// The name does not follow the grammar of user ids, is too long, or is reserved.
    #[error("that is not a name that a user can have here: use a-z, 0-9, and . _ = - / +")]
    InvalidUsername,
    /// Somebody has, or had, this name.
    #[error("that name is taken")]
    UsernameTaken,
    /// A password that is too short, or too long.
    #[error("the password must have at least {minimum} characters, and at most {maximum_bytes} bytes")]
    WeakPassword {
        /// The fewest characters.
        minimum: usize,
        /// The most bytes: hashing more would cost the server more than it protects the user.
        maximum_bytes: usize,
    },
    /// Wrong name or password; which one is not told.
    #[error("the name or the password is wrong")]
    WrongCredentials,
    /// The operator turned password login off.
    #[error("passwords are not accepted on this server")]
    PasswordLoginDisabled,
    /// A token from `get_token` that is unknown, used, or too old.
    #[error("that login token is not valid, or not any more")]
    InvalidLoginToken,
    /// An access or refresh token that is unknown or too old.
    #[error("that token is not valid, or not any more")]
    UnknownToken {
        /// Whether the client should keep its data and log in again or refresh (soft logout).
        soft_logout: bool,
    },
    /// An application service acts as a device that is not there (MSC4326).
    #[error("there is no such device")]
    UnknownDevice,
    /// The account was locked by an administrator.
    #[error("this account is locked")]
    UserLocked,
    /// The account was suspended by an administrator.
    #[error("this account is suspended and may only read")]
    UserSuspended,
    /// The account was deactivated.
    #[error("this account was deactivated")]
    UserDeactivated,
    /// The account's validity has ended.
    #[error("this account is no longer valid; ask the administrator to renew it")]
    AccountExpired,
    /// There is no such user here.
    #[error("there is no such user")]
    UserNotFound,
    /// Nothing is stored under that name.
    #[error("{0}")]
    NotFound(&'static str),
    /// Somebody else's data.
    #[error("{0}")]
    Forbidden(&'static str),
    /// A value that the spec does not allow.
    #[error("{0}")]
    InvalidParameter(&'static str),
    /// An invite to a user who wants none.
    #[error("that user wants no invites")]
    InviteBlocked,
    /// The operator switched presence off.
    #[error("this server does not tell who is here")]
    PresenceDisabled,
    /// The profile as a whole would exceed 64 KiB.
    #[error("a profile has at most 64 KiB")]
    ProfileTooLarge,
    /// A profile field's name of more than 255 bytes.
    #[error("the name of a profile field has at most 255 bytes")]
    KeyTooLarge,
    /// Something larger than is kept.
    #[error("{0}")]
    TooLarge(&'static str),
    /// Too many attempts.
    #[error("too many attempts")]
    LimitExceeded {
        /// When to try again.
        retry_after: Duration,
    },
    /// The store belongs to a server of another name.
    #[error(
        "the store belongs to the server {pinned}, and the configuration says server_name = \"{configured}\""
    )]
    OtherServer {
        /// The name in the store.
        pinned: String,
        /// The name in the configuration.
        configured: String,
    },
    /// The storage failed or is unavailable.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A mistake of ours.
    #[error("internal error: {0}")]
    Internal(String),
}

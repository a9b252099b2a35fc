//! Matrix errors: every one with its status, its code, and a message that helps.

use std::{fmt::Display, time::Duration};

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use entente_accounts::AccountError;
use entente_appservices::AppServiceError;
use entente_encryption::EncryptionError;
use entente_federation::FederationError;
use entente_rooms::RoomError;
use entente_storage::StorageError;
use entente_sync::SyncError;
use ruma::api::{
    client::uiaa::UiaaInfo,
    error::{DeserializationError, FromHttpRequestError},
};
use serde_json::{Value, json};

/// When a client should try again that met a server in trouble.
const TROUBLE_RETRY_AFTER: Duration = Duration::from_secs(5);

/// An answer that says why not.
#[derive(Debug)]
pub struct MatrixError {
    status: StatusCode,
    body: Value,
    retry_after: Option<Duration>,
}

impl MatrixError {
    pub(crate) fn new(status: StatusCode, errcode: &str, message: impl Display) -> Self {
        let body = json!({ "errcode": errcode, "error": message.to_string() });
        Self { status, body, retry_after: None }
    }

    /// 401, `M_MISSING_TOKEN`.
    pub fn missing_token() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "M_MISSING_TOKEN", "an access token is needed, as a bearer token")
    }

    /// 401, `M_UNAUTHORIZED`: a proof of who is asking that proves nothing.
    pub fn unauthorized(message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "M_UNAUTHORIZED", message)
    }

    /// 401, `M_UNKNOWN_TOKEN`: a token that is no application service's, where one is needed.
    pub fn unknown_service() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "M_UNKNOWN_TOKEN",
            "that is not the token of an application service",
        )
    }

    /// 400, `M_EXCLUSIVE`: a name or an alias that an application service has for itself, or that a service has not.
    pub fn exclusive(message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "M_EXCLUSIVE", message)
    }

    /// 400, `M_APPSERVICE_LOGIN_UNSUPPORTED`: the service acts as its users without sessions of theirs (MSC4190).
    pub fn service_login_unsupported() -> Self {
        let message = "this application service manages its users' devices itself and has no sessions";
        Self::new(StatusCode::BAD_REQUEST, "M_APPSERVICE_LOGIN_UNSUPPORTED", message)
    }

    /// Why an application service could not be reached (A-S API, `POST /appservice/{appserviceId}/ping`).
    pub fn of_ping(error: AppServiceError) -> Self {
        let message = error.to_string();
        match error {
            AppServiceError::NoUrl => Self::new(StatusCode::BAD_REQUEST, "M_URL_NOT_SET", message),
            AppServiceError::TimedOut => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, "M_CONNECTION_TIMEOUT", message)
            }
            AppServiceError::Status { status, body } => {
                let mut error = Self::new(StatusCode::BAD_GATEWAY, "M_BAD_STATUS", message);
                error.body["status"] = json!(status);
                error.body["body"] = json!(body);
                error
            }
            AppServiceError::Unreachable(_) | AppServiceError::BadAnswer(_) => {
                Self::new(StatusCode::BAD_GATEWAY, "M_CONNECTION_FAILED", message)
            }
            error => Self::internal(error),
        }
    }

    /// Whether it is this server's fault, and not that of whoever asks.
    pub fn is_trouble(&self) -> bool {
        self.status.is_server_error()
    }

    /// 403, `M_FORBIDDEN`.
    pub fn forbidden(message: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "M_FORBIDDEN", message)
    }

    /// 403, `M_THREEPID_DENIED`: this server keeps no e-mail addresses and no telephone numbers.
    pub fn third_party_identifiers_denied() -> Self {
        let message = "this server keeps no e-mail addresses and no telephone numbers";
        Self::new(StatusCode::FORBIDDEN, "M_THREEPID_DENIED", message)
    }

    /// 404, `M_THREEPID_NOT_FOUND`: as it keeps none, none of them is anybody's.
    pub fn third_party_identifier_not_found() -> Self {
        let message = "that is no e-mail address or telephone number of yours; this server keeps none";
        Self::new(StatusCode::NOT_FOUND, "M_THREEPID_NOT_FOUND", message)
    }

    /// 403, `M_SERVER_NOT_TRUSTED`: this server speaks to no identity server.
    pub fn identity_server_not_trusted() -> Self {
        let message = "this server speaks to no identity server; clients can ask one by themselves";
        Self::new(StatusCode::FORBIDDEN, "M_SERVER_NOT_TRUSTED", message)
    }

    /// 404, `M_NOT_FOUND`.
    pub fn not_found(message: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "M_NOT_FOUND", message)
    }

    /// 400, `M_INVALID_PARAM`.
    pub fn invalid_param(message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "M_INVALID_PARAM", message)
    }

    /// 400, `M_MISSING_PARAM`.
    pub fn missing_param(message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "M_MISSING_PARAM", message)
    }

    /// 400, `M_BAD_JSON`.
    pub fn bad_json(message: impl Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "M_BAD_JSON", message)
    }

    /// 400, `M_NOT_JSON`.
    pub fn not_json(message: impl Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "M_NOT_JSON", format!("the body is not JSON: {message}"))
    }

    /// 400, `M_UNKNOWN`: a `type` in a login that this server does not know.
    pub fn unknown_login_type() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "M_UNKNOWN",
            "this kind of login is not offered here; see GET /login",
        )
    }

    /// 400, `M_MISSING_PARAM`: a login that names nobody.
    pub fn missing_identifier() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "M_MISSING_PARAM", "the login needs an identifier")
    }

    /// 405, `M_BAD_JSON`: account data that has an endpoint of its own (C-S API, "Client Config").
    pub fn managed_type(event_type: &str) -> Self {
        let message = format!("{event_type} has an endpoint of its own and cannot be set as account data");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "M_BAD_JSON", message)
    }

    /// 404, `M_UNRECOGNIZED`.
    pub fn unrecognized() -> Self {
        Self::new(StatusCode::NOT_FOUND, "M_UNRECOGNIZED", "this server does not know that endpoint")
    }

    /// 405, `M_UNRECOGNIZED`.
    pub fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "M_UNRECOGNIZED",
            "this endpoint is called by another method",
        )
    }

    /// 403, `M_GUEST_ACCESS_FORBIDDEN`.
    pub fn guest_access_forbidden(message: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "M_GUEST_ACCESS_FORBIDDEN", message)
    }

    /// 416, `M_INVALID_PARAM`.
    pub fn range_not_satisfiable(size: u64) -> Self {
        let message = format!("the file has {size} bytes");
        Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "M_INVALID_PARAM", message)
    }

    /// 429, `M_LIMIT_EXCEEDED`.
    pub fn limit_exceeded(retry_after: Duration) -> Self {
        let mut error = Self::new(StatusCode::TOO_MANY_REQUESTS, "M_LIMIT_EXCEEDED", "too many requests");
        error.body["retry_after_ms"] = json!(retry_after.as_millis());
        error.retry_after = Some(retry_after);
        error
    }

    /// The same with other words.
    #[must_use]
    pub(crate) fn saying(mut self, message: &str) -> Self {
        self.body["error"] = json!(message);
        self
    }

    /// 503, `M_UNKNOWN`: the server has too much to do, or cannot reach what it needs.
    pub fn unavailable(message: &str) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "M_UNKNOWN", message);
        Self { retry_after: Some(TROUBLE_RETRY_AFTER), ..error }
    }

    /// 504, `M_UNKNOWN`: it took too long.
    pub fn timed_out() -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "M_UNKNOWN", "the request took too long")
    }

    /// 500, `M_UNKNOWN`. The cause is logged here, once, and not told.
    pub fn internal(error: impl Display) -> Self {
        tracing::error!(%error, "a request failed inside the server");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "M_UNKNOWN", "the server made a mistake; it was logged")
    }

    /// 401 with what the client has to do next.
    fn interactive(info: &UiaaInfo) -> Self {
        match serde_json::to_value(info) {
            Ok(body) => Self { status: StatusCode::UNAUTHORIZED, body, retry_after: None },
            Err(error) => Self::internal(error),
        }
    }

    /// 413, `M_TOO_LARGE`: a body of more bytes than the request may have.
    pub(crate) fn body_too_large(most_bytes: usize) -> Self {
        let message = format!("a request has at most {most_bytes} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "M_TOO_LARGE", message)
    }

    /// A body that is too large, or that broke off.
    pub(crate) fn unreadable_body(error: &axum::Error, most_bytes: usize) -> Self {
        let is_too_large = std::error::Error::source(error)
            .is_some_and(|source| source.to_string().contains("length limit exceeded"));
        if is_too_large {
            return Self::body_too_large(most_bytes);
        }
        Self::new(StatusCode::BAD_REQUEST, "M_UNKNOWN", "the request ended before it was complete")
    }

    /// A request that does not have the shape of its endpoint.
    pub(crate) fn unreadable_request(error: &FromHttpRequestError) -> Self {
        let FromHttpRequestError::Deserialization(error) = error else {
            return Self::method_not_allowed();
        };
        match error {
            DeserializationError::Json(error) if error.is_data() => Self::bad_json(error),
            DeserializationError::Json(error) => {
                Self::new(StatusCode::BAD_REQUEST, "M_NOT_JSON", format!("the body is not JSON: {error}"))
            }
            DeserializationError::Utf8(_) => {
                Self::new(StatusCode::BAD_REQUEST, "M_NOT_JSON", "the body is not UTF-8")
            }
            DeserializationError::Query(error) if error.to_string().starts_with("missing field") => {
                Self::new(StatusCode::BAD_REQUEST, "M_MISSING_PARAM", error)
            }
            error => Self::new(StatusCode::BAD_REQUEST, "M_INVALID_PARAM", error),
        }
    }
}

impl IntoResponse for MatrixError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        if let Some(retry_after) = self.retry_after {
            // Whole seconds, and never too early.
            let seconds = retry_after.as_millis().div_ceil(1_000).max(1);
            if let Ok(seconds) = HeaderValue::try_from(seconds.to_string()) {
                response.headers_mut().insert(header::RETRY_AFTER, seconds);
            }
        }
        response
    }
}

impl From<AccountError> for MatrixError {
    fn from(error: AccountError) -> Self {
        let message = error.to_string();
        let (status, errcode) = match error {
            AccountError::Interactive(info) => return Self::interactive(&info),
            AccountError::LimitExceeded { retry_after } => return Self::limit_exceeded(retry_after),
            AccountError::Storage(error) => return error.into(),
            AccountError::Internal(error) => return Self::internal(error),
            AccountError::UnknownToken { soft_logout } => {
                let mut error = Self::new(StatusCode::UNAUTHORIZED, "M_UNKNOWN_TOKEN", message);
                error.body["soft_logout"] = json!(soft_logout);
                return error;
            }
            AccountError::UnknownDevice => (StatusCode::BAD_REQUEST, "M_UNKNOWN_DEVICE"),
            AccountError::UserLocked => {
                let mut error = Self::new(StatusCode::UNAUTHORIZED, "M_USER_LOCKED", message);
                error.body["soft_logout"] = json!(true);
                return error;
            }
            AccountError::RegistrationClosed
            | AccountError::WrongCredentials
            | AccountError::PasswordLoginDisabled
            | AccountError::InvalidLoginToken
            | AccountError::PresenceDisabled
            | AccountError::Forbidden(_) => (StatusCode::FORBIDDEN, "M_FORBIDDEN"),
            AccountError::InviteBlocked => (StatusCode::FORBIDDEN, "M_INVITE_BLOCKED"),
            AccountError::GuestsRefused => (StatusCode::FORBIDDEN, "M_GUEST_ACCESS_FORBIDDEN"),
            AccountError::InvalidUsername => (StatusCode::BAD_REQUEST, "M_INVALID_USERNAME"),
            AccountError::UsernameTaken => (StatusCode::BAD_REQUEST, "M_USER_IN_USE"),
            AccountError::WeakPassword { .. } => (StatusCode::BAD_REQUEST, "M_WEAK_PASSWORD"),
            AccountError::UserSuspended => (StatusCode::FORBIDDEN, "M_USER_SUSPENDED"),
            AccountError::UserDeactivated => (StatusCode::FORBIDDEN, "M_USER_DEACTIVATED"),
            AccountError::AccountExpired => (StatusCode::FORBIDDEN, "ORG_MATRIX_EXPIRED_ACCOUNT"),
            AccountError::UserNotFound | AccountError::NotFound(_) => (StatusCode::NOT_FOUND, "M_NOT_FOUND"),
            AccountError::InvalidParameter(_) => (StatusCode::BAD_REQUEST, "M_INVALID_PARAM"),
            AccountError::ProfileTooLarge => (StatusCode::BAD_REQUEST, "M_PROFILE_TOO_LARGE"),
            AccountError::KeyTooLarge => (StatusCode::BAD_REQUEST, "M_KEY_TOO_LARGE"),
            AccountError::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "M_TOO_LARGE"),
            error => return Self::internal(error),
        };
        Self::new(status, errcode, message)
    }
}

impl From<EncryptionError> for MatrixError {
    fn from(error: EncryptionError) -> Self {
        let message = error.to_string();
        let (status, errcode) = match error {
            EncryptionError::Storage(error) => return error.into(),
            EncryptionError::WrongBackupVersion { current } => {
                let mut error = Self::new(StatusCode::FORBIDDEN, "M_WRONG_ROOM_KEYS_VERSION", message);
                error.body["current_version"] = json!(current);
                return error;
            }
            EncryptionError::NotFound(_) => (StatusCode::NOT_FOUND, "M_NOT_FOUND"),
            EncryptionError::Forbidden(_) => (StatusCode::FORBIDDEN, "M_FORBIDDEN"),
            EncryptionError::InvalidParameter(_) => (StatusCode::BAD_REQUEST, "M_INVALID_PARAM"),
            EncryptionError::InvalidSignature(_) => (StatusCode::BAD_REQUEST, "M_INVALID_SIGNATURE"),
            EncryptionError::KeyExists => (StatusCode::BAD_REQUEST, "M_UNKNOWN"),
            EncryptionError::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "M_TOO_LARGE"),
            error => return Self::internal(error),
        };
        Self::new(status, errcode, message)
    }
}

impl From<RoomError> for MatrixError {
    fn from(error: RoomError) -> Self {
        let message = error.to_string();
        let (status, errcode) = match error {
            RoomError::Storage(error) => return error.into(),
            RoomError::RoomNotFound
            | RoomError::EventNotFound
            | RoomError::NotFound(_)
            | RoomError::NotHere(_) => (StatusCode::NOT_FOUND, "M_NOT_FOUND"),
            RoomError::Unauthorized(_) | RoomError::Forbidden(_) => (StatusCode::FORBIDDEN, "M_FORBIDDEN"),
            RoomError::UnsupportedRoomVersion(_) => (StatusCode::BAD_REQUEST, "M_UNSUPPORTED_ROOM_VERSION"),
            RoomError::InvalidRoomState(_) => (StatusCode::BAD_REQUEST, "M_INVALID_ROOM_STATE"),
            RoomError::BadEvent(_) => (StatusCode::BAD_REQUEST, "M_BAD_JSON"),
            RoomError::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "M_TOO_LARGE"),
            RoomError::InvalidParameter(_) => (StatusCode::BAD_REQUEST, "M_INVALID_PARAM"),
            RoomError::AliasTaken(_) => (StatusCode::CONFLICT, "M_ROOM_IN_USE"),
            RoomError::BadAlias(_) => (StatusCode::BAD_REQUEST, "M_BAD_ALIAS"),
            RoomError::UnableToAuthoriseJoin => (StatusCode::BAD_REQUEST, "M_UNABLE_TO_AUTHORISE_JOIN"),
            RoomError::DelayTooLong(longest) => {
                let mut error = Self::new(StatusCode::BAD_REQUEST, "M_UNKNOWN", message);
                error.body["org.matrix.msc4140.errcode"] = json!("M_MAX_DELAY_EXCEEDED");
                error.body["org.matrix.msc4140.max_delay"] = json!(longest.as_millis());
                return error;
            }
            RoomError::TooManyDelayed(until) => {
                let mut error = Self::limit_exceeded(until);
                error.body["error"] = json!(message);
                return error;
            }
            // In the policy server's own words (S-S API, "Validating Policy Server signatures").
            RoomError::PolicyRefused(refusal) => {
                let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_GATEWAY);
                let mut error = Self::new(status, &refusal.errcode, &refusal.message);
                error.retry_after = refusal.retry_after;
                return error;
            }
            // MSC4140 has no code of its own for it. Element Call gives a call up for good at any but this one, although it only wants to
            // replace a delayed leave that was sent while it was away.
            RoomError::Finalised(_) => (StatusCode::CONFLICT, "M_NOT_FOUND"),
            RoomError::BadState(_) => (StatusCode::BAD_REQUEST, "M_UNKNOWN"),
            error => return Self::internal(error),
        };
        Self::new(status, errcode, message)
    }
}

impl From<FederationError> for MatrixError {
    fn from(error: FederationError) -> Self {
        let message = error.to_string();
        let (status, errcode) = match error {
            FederationError::Room(error) => return error.into(),
            FederationError::Storage(error) => return error.into(),
            FederationError::Refused(_) | FederationError::Status { status: 403, .. } => {
                (StatusCode::FORBIDDEN, "M_FORBIDDEN")
            }
            FederationError::OwnServer | FederationError::TooMuch(_) | FederationError::BadEvent(_) => {
                (StatusCode::BAD_REQUEST, "M_INVALID_PARAM")
            }
            FederationError::IdentityServerNotTrusted => (StatusCode::FORBIDDEN, "M_SERVER_NOT_TRUSTED"),
            FederationError::IncompatibleVersion(version) => {
                let mut error = Self::new(StatusCode::BAD_REQUEST, "M_INCOMPATIBLE_ROOM_VERSION", message);
                error.body["room_version"] = json!(version);
                return error;
            }
            FederationError::Unauthenticated(_) => (StatusCode::UNAUTHORIZED, "M_UNAUTHORIZED"),
            FederationError::NotJson(_) => (StatusCode::BAD_REQUEST, "M_NOT_JSON"),
            FederationError::TimedOut(_) => (StatusCode::GATEWAY_TIMEOUT, "M_UNKNOWN"),
            FederationError::Status { status: 404, .. } | FederationError::NobodyToAsk => {
                (StatusCode::NOT_FOUND, "M_NOT_FOUND")
            }
            FederationError::BackingOff { .. }
            | FederationError::Unreachable { .. }
            | FederationError::Status { .. }
            | FederationError::BadAnswer { .. }
            | FederationError::IdentityServer { .. } => (StatusCode::BAD_GATEWAY, "M_UNKNOWN"),
            error => return Self::internal(error),
        };
        Self::new(status, errcode, message)
    }
}

impl From<AppServiceError> for MatrixError {
    fn from(error: AppServiceError) -> Self {
        match error {
            AppServiceError::Room(error) => error.into(),
            AppServiceError::Account(error) => error.into(),
            AppServiceError::Encryption(error) => error.into(),
            AppServiceError::Storage(error) => error.into(),
            AppServiceError::Registration(message) => Self::invalid_param(&message),
            AppServiceError::Unknown(_) => Self::not_found(&error.to_string()),
            AppServiceError::InFile(_) => Self::forbidden(&error.to_string()),
            error => Self::internal(error),
        }
    }
}

impl From<SyncError> for MatrixError {
    fn from(error: SyncError) -> Self {
        match error {
            SyncError::UnknownPosition => {
                Self::new(StatusCode::BAD_REQUEST, "M_UNKNOWN_POS", error.to_string())
            }
            SyncError::Room(error) => error.into(),
            SyncError::Account(error) => error.into(),
            SyncError::Encryption(error) => error.into(),
            SyncError::Storage(error) => error.into(),
            error => Self::internal(error),
        }
    }
}

impl From<StorageError> for MatrixError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Conflict { .. } | StorageError::Unavailable(_) => {
                tracing::warn!(%error, "a request found no storage");
                Self::unavailable("the server's storage is not available at present; try again later")
            }
            error => Self::internal(error),
        }
    }
}

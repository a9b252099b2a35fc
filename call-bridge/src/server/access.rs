use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};

use super::CallBridge;
use crate::{
    Admitted, Claims, Stopped, TokenError,
    session::{JoinError, JoinParameters},
    token::MAXIMUM_NAME_BYTES,
    worker::{Obstacle, Rooms},
};

/// Why somebody does not get in. Each has an HTTP status, by which clients decide what to show; the text is for people.
#[derive(Debug, thiserror::Error)]
pub(super) enum AccessError {
    /// 401.
    #[error("a token is missing: as access_token or in an Authorization header")]
    NoToken,
    /// 401.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// 401.
    #[error("the token does not allow to join rooms")]
    MayNotJoin,
    /// 401.
    #[error("the holder of the token may no longer join")]
    NoLonger,
    /// 503.
    #[error("it cannot be found out whether the holder of the token may join")]
    Undecided,
    /// 400.
    #[error("the token names no identity, or too long a one")]
    Identity,
    /// 400.
    #[error("the token names no room, or one with too long a name")]
    Room,
    /// 400.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// 400.
    #[error("the query cannot be read")]
    Query,
    /// 404. Clients know this text: any other makes them believe that the path is not served.
    #[error("requested room does not exist")]
    NoRoom,
    /// 404.
    #[error("this is for WebSocket connections only")]
    NoWebSocket,
    /// 503. Element Call says that there is not enough capacity.
    #[error("the room is full")]
    Full,
    /// 503, as well.
    #[error("there are too many rooms")]
    TooManyRooms,
    /// 503.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl AccessError {
    fn status(&self) -> StatusCode {
        match self {
            Self::NoToken | Self::Token(_) | Self::MayNotJoin | Self::NoLonger => StatusCode::UNAUTHORIZED,
            Self::Identity | Self::Room | Self::Join(_) | Self::Query => StatusCode::BAD_REQUEST,
            Self::NoRoom | Self::NoWebSocket => StatusCode::NOT_FOUND,
            Self::Full | Self::TooManyRooms | Self::Stopped(_) | Self::Undecided => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }
}

impl IntoResponse for AccessError {
    fn into_response(self) -> Response {
        (self.status(), self.to_string()).into_response()
    }
}

/// The token of a request: in its query, as browsers must, or in its header.
pub(super) fn token<'a>(headers: &'a HeaderMap, query: Option<&'a str>) -> Result<&'a str, AccessError> {
    let header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = header.and_then(|value| value.strip_prefix("Bearer "));
    query.filter(|token| !token.is_empty()).or(bearer).ok_or(AccessError::NoToken)
}

impl CallBridge {
    pub(super) fn claims(&self, token: &str) -> Result<Claims, TokenError> {
        self.shared.settings.api_key.verify(token, self.shared.environment.now())
    }

    /// Whether rooms that are not there are made for this token.
    pub(super) fn may_create(&self, claims: &Claims) -> bool {
        self.shared.settings.auto_create || claims.video.room_create
    }

    /// Whether the holder of a valid token may still join.
    pub(super) async fn ask_admission(&self, claims: &Claims) -> Result<Admitted, AccessError> {
        match self.shared.admission.may_join(claims).await {
            Ok(Admitted::No) => Err(AccessError::NoLonger),
            Ok(admitted) => Ok(admitted),
            Err(error) => {
                tracing::warn!(%error, "nobody can join: who may is not known");
                Err(AccessError::Undecided)
            }
        }
    }

    /// What a token says that allows to join.
    pub(super) async fn admit(&self, token: &str) -> Result<Claims, AccessError> {
        let mut claims = self.claims(token)?;
        let has_length = |text: &str| !text.is_empty() && text.len() <= MAXIMUM_NAME_BYTES;
        if !claims.video.room_join {
            return Err(AccessError::MayNotJoin);
        }
        if !has_length(&claims.sub) {
            return Err(AccessError::Identity);
        }
        if !has_length(&claims.video.room) {
            return Err(AccessError::Room);
        }
        if let Admitted::Publishing(may_publish) = self.ask_admission(&claims).await? {
            claims.video.can_publish = Some(may_publish);
            claims.video.can_publish_data = Some(may_publish);
        }
        Ok(claims)
    }

    /// Whether there is a room to join, and a place in it. Others may be quicker: the room itself is asked again.
    pub(super) async fn find_place(
        &self,
        claims: &Claims,
        parameters: &JoinParameters,
    ) -> Result<(), AccessError> {
        let may_create = self.may_create(claims);
        let asking = claims.clone();
        let ask = move |rooms: &mut Rooms, _| rooms.obstacle(&asking.video.room, &asking, may_create);
        match self.shared.workers.with_room(&claims.video.room, ask).await? {
            Some(Obstacle::NoRoom) => Err(AccessError::NoRoom),
            // Who wants to go on has its place, or is told by the room to begin anew.
            _ if parameters.resume.is_some() => Ok(()),
            Some(Obstacle::TooManyRooms) => Err(AccessError::TooManyRooms),
            Some(Obstacle::Full) => Err(AccessError::Full),
            None => Ok(()),
        }
    }
}

use axum::extract::State;
use entente_accounts::Session;
use ruma::api::{
    IncomingRequest, Metadata,
    client::typing::create_typing_event::v3::{Request, Response, Typing},
    error::DeserializationError,
};
use serde_json::{Map, Value};

use super::membership::active;
use crate::{ApiState, MatrixError};

/// Who does not say how long they type does so for so many ms.
const DEFAULT_TIMEOUT: u64 = 30_000;

/// The request with its optional timeout, which `ruma` demands of everybody who types.
pub(super) struct SetTyping(Request);

impl Metadata for SetTyping {
    const METHOD: http::Method = <Request as Metadata>::METHOD;
    const RATE_LIMITED: bool = <Request as Metadata>::RATE_LIMITED;
    type Authentication = <Request as Metadata>::Authentication;
    type PathBuilder = <Request as Metadata>::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = <Request as Metadata>::PATH_BUILDER;
}

impl IncomingRequest for SetTyping {
    type EndpointError = <Request as IncomingRequest>::EndpointError;
    type OutgoingResponse = Response;

    fn try_from_http_request_inner(
        request: http::Request<&[u8]>,
        path_args: &[&str],
    ) -> Result<Self, DeserializationError> {
        let (parts, body) = request.into_parts();
        let mut body: Map<String, Value> = serde_json::from_slice(body)?;
        if body.get("timeout").is_none_or(Value::is_null) {
            body.insert(String::from("timeout"), Value::from(DEFAULT_TIMEOUT));
        }
        let body = serde_json::to_vec(&body)?;
        let request = http::Request::from_parts(parts, body.as_slice());
        Request::try_from_http_request_inner(request, path_args).map(Self)
    }
}

/// `PUT /rooms/{roomId}/typing/{userId}`.
pub(super) async fn set(
    State(state): State<ApiState>,
    session: Session,
    SetTyping(request): SetTyping,
) -> Result<Response, MatrixError> {
    active(&session)?;
    if request.user_id != session.user_id {
        return Err(MatrixError::forbidden("only for yourself can you say that you type"));
    }
    match request.state {
        Typing::Yes(info) => {
            state.rooms.begin_typing(&request.room_id, &session.user_id, info.timeout).await?;
            state.accounts.note_activity(&session.user_id);
        }
        Typing::No => state.rooms.cease_typing(&request.room_id, &session.user_id).await?,
    }
    Ok(Response::new())
}

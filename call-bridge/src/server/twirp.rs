//! `RoomService` over Twirp: what LiveKit's server SDKs and tools speak.

use axum::{
    body::to_bytes,
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use prost::Message;

use super::{CallBridge, access::token};
use crate::{
    Claims, Stopped,
    proto::{
        CreateRoomRequest, DeleteRoomRequest, DeleteRoomResponse, JsonError, ListParticipantsRequest,
        ListParticipantsResponse, ListRoomsRequest, ListRoomsResponse, MuteRoomTrackRequest,
        MuteRoomTrackResponse, ParticipantInfo, RemoveParticipantResponse, Room, RoomParticipantIdentity,
        SendDataRequest, SendDataResponse, UpdateParticipantRequest, UpdateRoomMetadataRequest,
        UpdateSubscriptionsRequest, UpdateSubscriptionsResponse, from_json, to_json,
    },
    room::{AdminError, MAXIMUM_METADATA, Moment, RoomOptions},
    token::MAXIMUM_NAME_BYTES,
    worker::Rooms,
};

/// The largest request, in bytes.
const MAXIMUM_BODY: usize = 512 * 1_024;

/// Why a call fails. Each has a code of Twirp and the HTTP status that belongs to it.
#[derive(Debug, thiserror::Error)]
pub(super) enum TwirpError {
    /// `unauthenticated`, 401.
    #[error("{0}")]
    Unauthenticated(String),
    /// `permission_denied`, 403.
    #[error("the token does not allow this")]
    Denied,
    /// `bad_route`, 404.
    #[error("no such method")]
    NoMethod,
    /// `malformed`, 400.
    #[error("the body cannot be read: {0}")]
    Malformed(String),
    /// `invalid_argument`, 400.
    #[error("{0}")]
    Argument(&'static str),
    /// `not_found`, 404.
    #[error("requested room does not exist")]
    NoRoom,
    /// `not_found`, 404, or `invalid_argument`, 400.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// `resource_exhausted`, 429.
    #[error("there are too many rooms")]
    TooManyRooms,
    /// `unavailable`, 503.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// `internal`, 500.
    #[error("the answer cannot be written: {0}")]
    Answer(JsonError),
}

impl TwirpError {
    fn code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Unauthenticated(_) => (StatusCode::UNAUTHORIZED, "unauthenticated"),
            Self::Denied => (StatusCode::FORBIDDEN, "permission_denied"),
            Self::NoMethod => (StatusCode::NOT_FOUND, "bad_route"),
            Self::Malformed(_) => (StatusCode::BAD_REQUEST, "malformed"),
            Self::Argument(_) | Self::Admin(AdminError::TooLarge) => {
                (StatusCode::BAD_REQUEST, "invalid_argument")
            }
            Self::NoRoom | Self::Admin(_) => (StatusCode::NOT_FOUND, "not_found"),
            Self::TooManyRooms => (StatusCode::TOO_MANY_REQUESTS, "resource_exhausted"),
            Self::Stopped(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Self::Answer(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        }
    }
}

impl IntoResponse for TwirpError {
    fn into_response(self) -> Response {
        let (status, code) = self.code();
        let body = serde_json::json!({ "code": code, "msg": self.to_string() });
        (status, axum::Json(body)).into_response()
    }
}

/// A request in one of the two forms.
struct Call {
    json: bool,
    body: axum::body::Bytes,
    claims: Claims,
}

impl Call {
    fn read<M: Message + Default>(&self, name: &'static str) -> Result<M, TwirpError> {
        if self.json {
            from_json(name, &self.body).map_err(|error| TwirpError::Malformed(error.to_string()))
        } else {
            M::decode(self.body.clone()).map_err(|error| TwirpError::Malformed(error.to_string()))
        }
    }

    fn answer<M: Message>(&self, name: &'static str, message: &M) -> Result<Response, TwirpError> {
        let (kind, body) = if self.json {
            ("application/json", to_json(name, message).map_err(TwirpError::Answer)?)
        } else {
            ("application/protobuf", message.encode_to_vec())
        };
        let headers = [(header::CONTENT_TYPE, HeaderValue::from_static(kind))];
        Ok((headers, body).into_response())
    }

    /// Who joins on account of an owner may make the room by joining it, and neither make nor delete others.
    fn needs_room_create(&self) -> Result<(), TwirpError> {
        needs(self.claims.video.room_create && self.claims.owner.is_empty())
    }

    fn needs_admin(&self, room: &str) -> Result<(), TwirpError> {
        needs(self.claims.video.room_admin && self.claims.video.room == room)
    }
}

fn needs(granted: bool) -> Result<(), TwirpError> {
    if granted { Ok(()) } else { Err(TwirpError::Denied) }
}

/// `POST /twirp/livekit.RoomService/{method}`.
pub(super) async fn call(
    State(bridge): State<CallBridge>,
    Path(method): Path<String>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, TwirpError> {
    let unauthenticated = |error: String| TwirpError::Unauthenticated(error);
    let token = token(&headers, None).map_err(|error| unauthenticated(error.to_string()))?;
    let claims = bridge.claims(token).map_err(|error| unauthenticated(error.to_string()))?;
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let json = kind.starts_with("application/json");
    if !json && !kind.starts_with("application/protobuf") {
        return Err(TwirpError::Malformed("neither application/json nor application/protobuf".to_owned()));
    }
    let body = to_bytes(request.into_body(), MAXIMUM_BODY).await;
    let body = body.map_err(|error| TwirpError::Malformed(error.to_string()))?;
    let call = Call { json, body, claims };
    match method.as_str() {
        "CreateRoom" => create_room(&bridge, &call).await,
        "ListRooms" => list_rooms(&bridge, &call).await,
        "DeleteRoom" => delete_room(&bridge, &call).await,
        "ListParticipants" => list_participants(&bridge, &call).await,
        "GetParticipant" => get_participant(&bridge, &call).await,
        "RemoveParticipant" => remove_participant(&bridge, &call).await,
        "MutePublishedTrack" => mute_published_track(&bridge, &call).await,
        "UpdateParticipant" => update_participant(&bridge, &call).await,
        "UpdateSubscriptions" => update_subscriptions(&bridge, &call).await,
        "SendData" => send_data(&bridge, &call).await,
        "UpdateRoomMetadata" => update_room_metadata(&bridge, &call).await,
        _ => Err(TwirpError::NoMethod),
    }
}

/// Does something with a room that must be there.
async fn in_room<R: Send + 'static>(
    bridge: &CallBridge,
    name: &str,
    what: impl FnOnce(&mut crate::room::Room, Moment) -> Result<R, AdminError> + Send + 'static,
) -> Result<R, TwirpError> {
    let room = name.to_owned();
    let found = bridge
        .shared
        .workers
        .with_room(name, move |rooms: &mut Rooms, now| rooms.room(&room).map(|room| what(room, now)))
        .await?;
    Ok(found.ok_or(TwirpError::NoRoom)??)
}

async fn create_room(bridge: &CallBridge, call: &Call) -> Result<Response, TwirpError> {
    call.needs_room_create()?;
    let request: CreateRoomRequest = call.read("livekit.CreateRoomRequest")?;
    if request.name.is_empty() || request.name.len() > MAXIMUM_NAME_BYTES {
        return Err(TwirpError::Argument("the room's name is missing or too long"));
    }
    if request.metadata.len() > MAXIMUM_METADATA {
        return Err(AdminError::TooLarge.into());
    }
    let options = RoomOptions {
        empty_timeout: request.empty_timeout,
        departure_timeout: request.departure_timeout,
        maximum_participants: request.max_participants,
        metadata: request.metadata,
    };
    let name = request.name.clone();
    // A room that is there stays as it is: LiveKit's servers apply options to rooms that are stored but not on a node, and here all are on
    // one. Token services ask for a room with every token, and would undo what it was made with.
    let made = bridge
        .shared
        .workers
        .with_room(&request.name, move |rooms, now| rooms.make(&name, options, now).map(|room| room.info()));
    let room: Room = made.await?.map_err(|_| TwirpError::TooManyRooms)?;
    call.answer("livekit.Room", &room)
}

async fn list_rooms(bridge: &CallBridge, call: &Call) -> Result<Response, TwirpError> {
    needs(call.claims.video.room_list)?;
    let request: ListRoomsRequest = call.read("livekit.ListRoomsRequest")?;
    let names = request.names;
    let lists = bridge.shared.workers.with_all(move |rooms, _| rooms.list(&names)).await?;
    call.answer("livekit.ListRoomsResponse", &ListRoomsResponse { rooms: lists.concat() })
}

async fn delete_room(bridge: &CallBridge, call: &Call) -> Result<Response, TwirpError> {
    call.needs_room_create()?;
    let request: DeleteRoomRequest = call.read("livekit.DeleteRoomRequest")?;
    let name = request.room.clone();
    let workers = &bridge.shared.workers;
    if workers.with_room(&request.room, move |rooms, now| rooms.delete(&name, now)).await? {
        call.answer("livekit.DeleteRoomResponse", &DeleteRoomResponse {})
    } else {
        Err(TwirpError::NoRoom)
    }
}

async fn list_participants(bridge: &CallBridge, call: &Call) -> Result<Response, TwirpError> {
    let request: ListParticipantsRequest = call.read("livekit.ListParticipantsRequest")?;
    call.needs_admin(&request.room)?;
    let participants = in_room(bridge, &request.room, |room, _| Ok(room.list_participants())).await?;
    call.answer("livekit.ListParticipantsResponse", &ListParticipantsResponse { participants })
}

async fn get_participant(bridge: &CallBridge, call: &Call) -> Result<Response, TwirpError> {
    let RoomParticipantIdentity { room, identity } = call.read("livekit.RoomParticipantIdentity")?;
    call.needs_admin(&room)?;
    let info: ParticipantInfo =
        in_room(bridge, &room, move |room, _| room.get_participant(&identity)).await?;
    call.answer("livekit.ParticipantInfo", &info)
}

async fn remove_participant(bridge: &CallBridge, call: &Call) -> Result<Response, TwirpError> {
    let RoomParticipantIdentity { room, identity } = call.read("livekit.RoomParticipantIdentity")?;
    call.needs_admin(&room)?;
    in_room(bridge, &room, move |room, now| room.remove_participant(now, &identity)).await?;
    call.answer("livekit.RemoveParticipantResponse", &RemoveParticipantResponse {})
}

async fn mute_published_track(bridge: &CallBridge, call: &Call) -> Result<Response, TwirpError> {
    let MuteRoomTrackRequest { room, identity, track_sid, muted } =
        call.read("livekit.MuteRoomTrackRequest")?;
    call.needs_admin(&room)?;
    let track = in_room(bridge, &room, move |room, _| room.mute_track(&identity, &track_sid, muted)).await?;
    call.answer("livekit.MuteRoomTrackResponse", &MuteRoomTrackResponse { track: Some(track) })
}

async fn update_participant(bridge: &CallBridge, call: &Call) -> Result<Response, TwirpError> {
    let request: UpdateParticipantRequest = call.read("livekit.UpdateParticipantRequest")?;
    call.needs_admin(&request.room)?;
    let room = request.room.clone();
    let info = in_room(bridge, &room, move |room, now| room.update_participant(now, request)).await?;
    call.answer("livekit.ParticipantInfo", &info)
}

async fn update_subscriptions(bridge: &CallBridge, call: &Call) -> Result<Response, TwirpError> {
    let request: UpdateSubscriptionsRequest = call.read("livekit.UpdateSubscriptionsRequest")?;
    call.needs_admin(&request.room)?;
    let UpdateSubscriptionsRequest { room, identity, track_sids, subscribe, participant_tracks } = request;
    in_room(bridge, &room, move |room, now| {
        room.update_subscriptions(now, &identity, track_sids, participant_tracks, subscribe)
    })
    .await?;
    call.answer("livekit.UpdateSubscriptionsResponse", &UpdateSubscriptionsResponse {})
}

async fn send_data(bridge: &CallBridge, call: &Call) -> Result<Response, TwirpError> {
    let request: SendDataRequest = call.read("livekit.SendDataRequest")?;
    call.needs_admin(&request.room)?;
    let room = request.room.clone();
    in_room(bridge, &room, move |room, _| room.send_from_server(request)).await?;
    call.answer("livekit.SendDataResponse", &SendDataResponse {})
}

async fn update_room_metadata(bridge: &CallBridge, call: &Call) -> Result<Response, TwirpError> {
    let UpdateRoomMetadataRequest { room, metadata } = call.read("livekit.UpdateRoomMetadataRequest")?;
    call.needs_admin(&room)?;
    let room = in_room(bridge, &room, move |room, _| room.set_metadata(metadata)).await?;
    call.answer("livekit.Room", &room)
}

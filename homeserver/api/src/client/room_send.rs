use axum::extract::State;
use entente_accounts::Session;
use entente_rooms::{Draft, ObjectWriter, SendingDevice};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, TransactionId, UserId,
    api::client::{message::send_message_event, redact::redact_event, state::send_state_event},
    events::{StateEventType, TimelineEventType},
};

use super::{create_room::canonical, membership::active};
use crate::{
    ApiState, MatrixError,
    endpoint::{Json, Sending},
    guests,
};

/// `PUT /rooms/{roomId}/send/{eventType}/{txnId}`.
pub(super) async fn send(
    State(state): State<ApiState>,
    Sending { session, delay, sticky, origin_server_ts }: Sending,
    request: send_message_event::v3::Request,
) -> Result<Json, MatrixError> {
    active(&session)?;
    let event_type = TimelineEventType::from(request.event_type.to_string());
    let content = canonical(request.body.json().get())?;
    let device = Some(sending_device(&session, &request.txn_id));
    if let Some(delay) = delay {
        state.limits.take_for(&session)?;
        let draft = Draft { device, sticky, ..Draft::message(&session.user_id, event_type, content) };
        return Ok(one_field("delay_id", &state.rooms.delay(&request.room_id, &draft, delay).await?));
    }
    let event_id = if event_type == TimelineEventType::RoomRedaction {
        // Redacting by sending is for room versions that name the event in the content (MSC2174).
        let redacts = content.get("redacts").and_then(|redacts| redacts.as_str()?.try_into().ok());
        let redacts: &ruma::EventId =
            redacts.ok_or_else(|| MatrixError::bad_json("a redaction names the event that it redacts"))?;
        let reason = content.get("reason").and_then(|reason| reason.as_str());
        state.rooms.redact(&request.room_id, &session.user_id, redacts, reason, device).await?
    } else {
        let draft = Draft {
            device,
            sticky,
            origin_server_ts,
            ..Draft::message(&session.user_id, event_type, content)
        };
        state.rooms.send(&request.room_id, draft).await?
    };
    state.accounts.note_activity(&session.user_id);
    Ok(one_field("event_id", event_id.as_str()))
}

/// `PUT /rooms/{roomId}/state/{eventType}/{stateKey}`.
pub(super) async fn send_state(
    State(state): State<ApiState>,
    Sending { session, delay, origin_server_ts, .. }: Sending,
    request: send_state_event::v3::Request,
) -> Result<Json, MatrixError> {
    active(&session)?;
    let content = canonical(request.body.json().get())?;
    let event_type = request.event_type.to_string();
    let place = (event_type.as_str(), request.state_key.as_str());
    guests::check_state(&state, &session, &request.room_id, place, &content, delay.is_some()).await?;
    require_invitable(&state, &request.event_type, &request.state_key, &content).await?;
    let draft = Draft::state(&session.user_id, request.event_type, request.state_key, content);
    if let Some(delay) = delay {
        state.limits.take_for(&session)?;
        return Ok(one_field("delay_id", &state.rooms.delay(&request.room_id, &draft, delay).await?));
    }
    let draft = Draft { origin_server_ts, ..draft };
    let event_id = state.rooms.send(&request.room_id, draft).await?;
    Ok(one_field("event_id", event_id.as_str()))
}

fn one_field(name: &str, value: &str) -> Json {
    let mut json = Vec::new();
    let mut writer = ObjectWriter::begin(&mut json);
    writer.value(name, value);
    writer.end();
    Json(json)
}

/// Refuses state that is an invite to somebody who wants none.
pub(super) async fn require_invitable(
    state: &ApiState,
    event_type: &StateEventType,
    state_key: &str,
    content: &CanonicalJsonObject,
) -> Result<(), MatrixError> {
    let is_invite = *event_type == StateEventType::RoomMember
        && content.get("membership").and_then(CanonicalJsonValue::as_str) == Some("invite");
    if is_invite && let Ok(invitee) = <&UserId>::try_from(state_key) {
        state.accounts.require_invitable(invitee).await?;
    }
    Ok(())
}

/// `PUT /rooms/{roomId}/redact/{eventId}/{txnId}`.
pub(super) async fn redact(
    State(state): State<ApiState>,
    session: Session,
    request: redact_event::v3::Request,
) -> Result<redact_event::v3::Response, MatrixError> {
    if session.suspended {
        // Only what they sent themselves (C-S API, "Account suspension").
        let view = state.rooms.view(&request.room_id).await?;
        let redacted = view.event_by_id(&request.event_id).await?;
        if redacted.is_none_or(|event| event.sender != session.user_id) {
            active(&session)?;
        }
    }
    let device = Some(sending_device(&session, &request.txn_id));
    let reason = request.reason.as_deref();
    let event_id =
        state.rooms.redact(&request.room_id, &session.user_id, &request.event_id, reason, device).await?;
    Ok(redact_event::v3::Response::new(event_id))
}

pub(super) fn sending_device(session: &Session, transaction_id: &TransactionId) -> SendingDevice {
    SendingDevice { device_id: session.device_id.to_string(), transaction_id: transaction_id.to_string() }
}

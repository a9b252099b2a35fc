//! What a `LiveKit` server tells by its webhooks.

use base64::{Engine, prelude::BASE64_STANDARD};
use entente_environment::Timestamp;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{
    ApiKey, CallEvent,
    proto::{self, DisconnectReason, ParticipantInfo},
    token::MAXIMUM_NAME_BYTES,
};

/// Why a webhook is not listened to.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebhookError {
    /// Its token does not show that it comes from who has the key.
    #[error("the webhook is not signed with the key of the LiveKit server")]
    Stranger,
    /// It cannot be read.
    #[error("the webhook cannot be read")]
    Unreadable,
}

/// A webhook, as far as it matters here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    event: String,
    #[serde(default)]
    room: Room,
    #[serde(default)]
    participant: Participant,
}

#[derive(Debug, Default, Deserialize)]
struct Room {
    #[serde(default)]
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Participant {
    #[serde(default)]
    identity: String,
    #[serde(default)]
    sid: String,
    #[serde(default)]
    disconnect_reason: String,
}

/// What a webhook tells; `None` if it is nothing that matters here. `authorization` is the header of that name.
pub(super) fn read(
    key: &ApiKey,
    now: Timestamp,
    authorization: &str,
    body: &[u8],
) -> Result<Option<CallEvent>, WebhookError> {
    let token = authorization.strip_prefix("Bearer ").unwrap_or(authorization);
    let claims = key.verify(token, now).map_err(|_| WebhookError::Stranger)?;
    // A token is for its body: one that lets somebody into a call has none.
    if claims.sha256 != BASE64_STANDARD.encode(Sha256::digest(body)) {
        return Err(WebhookError::Stranger);
    }
    let Told { event, room, participant } =
        serde_json::from_slice(body).map_err(|_| WebhookError::Unreadable)?;
    let (room, identity, sid) = (room.name, participant.identity, participant.sid);
    if [&room, &identity, &sid].iter().any(|name| name.len() > MAXIMUM_NAME_BYTES) {
        return Err(WebhookError::Unreadable);
    }
    // Newer servers may have reasons that are not known here.
    let reason = DisconnectReason::from_str_name(&participant.disconnect_reason);
    let reason = reason.unwrap_or(DisconnectReason::UnknownReason);
    let room = Box::new(proto::Room { name: room, ..proto::Room::default() });
    let disconnect_reason = reason.into();
    let participant =
        Box::new(ParticipantInfo { identity, sid, disconnect_reason, ..ParticipantInfo::default() });
    Ok(match event.as_str() {
        "participant_joined" => Some(CallEvent::ParticipantJoined { room, participant }),
        "participant_left" | "participant_connection_aborted" => {
            let (was_reached, reason) = (event == "participant_left", reason.as_str_name());
            Some(CallEvent::ParticipantLeft { room, participant, was_reached, reason })
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use entente_environment::Environment;
    use serde_json::json;

    use super::*;
    use crate::Claims;

    #[test]
    fn only_what_is_signed_with_its_body_is_listened_to() {
        let key = ApiKey { name: "key".to_owned(), secret: "secret".to_owned() };
        let now = Environment::system().now();
        let signed = |key: &ApiKey, body: &str| {
            let sha256 = BASE64_STANDARD.encode(Sha256::digest(body));
            key.sign(Claims { sha256, ..Claims::default() }, now, Duration::from_secs(60))
        };
        let told = |event: &str| {
            json!({
                "event": event, "room": { "name": "room", "sid": "RM_1" }, "id": "EV_1", "createdAt": "1",
                "participant": { "identity": "alice", "sid": "PA_1", "disconnectReason": "DUPLICATE_IDENTITY" },
            })
            .to_string()
        };
        let room = Box::new(proto::Room { name: "room".to_owned(), ..proto::Room::default() });
        let participant = Box::new(ParticipantInfo {
            identity: "alice".to_owned(),
            sid: "PA_1".to_owned(),
            disconnect_reason: DisconnectReason::DuplicateIdentity.into(),
            ..ParticipantInfo::default()
        });
        let reason = "DUPLICATE_IDENTITY";
        let left = told("participant_left");
        let expected = CallEvent::ParticipantLeft { room, participant, was_reached: true, reason };
        assert_eq!(read(&key, now, &signed(&key, &left), left.as_bytes()), Ok(Some(expected)));
        let joined = told("participant_joined");
        let heard = read(&key, now, &format!("Bearer {}", signed(&key, &joined)), joined.as_bytes());
        assert!(matches!(heard, Ok(Some(CallEvent::ParticipantJoined { .. }))), "{heard:?}");
        let other = told("egress_started");
        assert_eq!(read(&key, now, &signed(&key, &other), other.as_bytes()), Ok(None));

        assert_eq!(read(&key, now, &signed(&key, &left), joined.as_bytes()), Err(WebhookError::Stranger));
        let stranger = ApiKey { secret: "another".to_owned(), ..key.clone() };
        assert_eq!(read(&key, now, &signed(&stranger, &left), left.as_bytes()), Err(WebhookError::Stranger));
        let for_a_call = key.sign(Claims::default(), now, Duration::from_secs(60));
        assert_eq!(read(&key, now, &for_a_call, b""), Err(WebhookError::Stranger));
        assert_eq!(read(&key, now, &signed(&key, "[]"), b"[]"), Err(WebhookError::Unreadable));
        let long = left.replace("alice", &"a".repeat(MAXIMUM_NAME_BYTES + 1));
        assert_eq!(read(&key, now, &signed(&key, &long), long.as_bytes()), Err(WebhookError::Unreadable));
    }
}

//! What guests may do (C-S API, "Guest access"): read and talk where they are let in, keep their keys, take part in calls.

use entente_accounts::Session;
use http::{Method, request::Parts};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, RoomId};

use crate::{ApiState, MatrixError};

/// Methods and paths behind `/_matrix/client/{version}/`; `*` is one segment, `**` is all that follow.
const ALLOWED: &[(Method, &str)] = &[
    (Method::GET, "sync"),
    (Method::POST, "sync"),
    (Method::POST, "org.matrix.simplified_msc3575/sync"),
    (Method::GET, "events"),
    (Method::GET, "initialSync"),
    (Method::GET, "joined_rooms"),
    (Method::GET, "rooms/**"),
    (Method::POST, "join/*"),
    (Method::POST, "rooms/*/join"),
    (Method::POST, "rooms/*/leave"),
    (Method::PUT, "rooms/*/send/**"),
    (Method::PUT, "rooms/*/state/**"),
    (Method::PUT, "rooms/*/redact/*/*"),
    (Method::PUT, "rooms/*/typing/*"),
    (Method::POST, "rooms/*/receipt/*/*"),
    (Method::POST, "rooms/*/read_markers"),
    (Method::PUT, "org.matrix.msc4140/rooms/*/delayed_event/*/*"),
    (Method::GET, "org.matrix.msc4140/delayed_events"),
    (Method::GET, "org.matrix.msc4140/delayed_events/*"),
    (Method::POST, "org.matrix.msc4140/delayed_events/**"),
    (Method::GET, "directory/room/*"),
    (Method::GET, "room_summary/*"),
    (Method::GET, "publicRooms"),
    (Method::POST, "publicRooms"),
    (Method::PUT, "sendToDevice/*/*"),
    (Method::POST, "keys/upload"),
    (Method::POST, "keys/query"),
    (Method::POST, "keys/claim"),
    (Method::GET, "keys/changes"),
    (Method::GET, "devices"),
    (Method::GET, "devices/*"),
    (Method::PUT, "devices/*"),
    (Method::GET, "profile/**"),
    (Method::PUT, "profile/*/displayname"),
    (Method::POST, "user/*/filter"),
    (Method::GET, "user/*/filter/*"),
    (Method::POST, "user/*/openid/request_token"),
    (Method::GET, "pushrules"),
    (Method::GET, "pushrules/**"),
    (Method::GET, "account/whoami"),
    (Method::GET, "capabilities"),
    (Method::GET, "versions"),
    (Method::GET, "media/**"),
    (Method::GET, "voip/turnServer"),
    (Method::GET, "rtc/transports"),
    (Method::GET, "org.matrix.msc4143/rtc/transports"),
    (Method::POST, "rtc/livekit/*"),
    (Method::POST, "io.element.msc4195/rtc/livekit/*"),
    (Method::POST, "logout"),
    (Method::POST, "logout/all"),
    (Method::POST, "refresh"),
];

/// Refuses guests what is not for them.
pub(crate) fn check(session: &Session, parts: &Parts) -> Result<(), MatrixError> {
    if session.guest && !may(&parts.method, parts.uri.path()) {
        return Err(MatrixError::guest_access_forbidden("guests may not do this"));
    }
    Ok(())
}

/// Refuses a guest memberships that are sent as state: all but leaving, and joining where guests are let in, which is not decided
/// ahead of time (`delayed`).
pub(crate) async fn check_state(
    state: &ApiState,
    session: &Session,
    room_id: &RoomId,
    (event_type, state_key): (&str, &str),
    content: &CanonicalJsonObject,
    delayed: bool,
) -> Result<(), MatrixError> {
    if !session.guest || event_type != "m.room.member" {
        return Ok(());
    }
    let is_own = session.user_id == state_key;
    let may = match content.get("membership").and_then(CanonicalJsonValue::as_str) {
        Some("leave") => is_own,
        Some("join") if is_own && !delayed => state.rooms.lets_guests_in(room_id).await?,
        _ => false,
    };
    if may {
        Ok(())
    } else {
        Err(MatrixError::guest_access_forbidden("guests join where guests are let in, and invite nobody"))
    }
}

fn may(method: &Method, path: &str) -> bool {
    let Some(rest) = path.strip_prefix("/_matrix/client/") else { return false };
    // The version: `v3`, `r0`, `unstable`. The oldest paths have two of them.
    let Some((_, rest)) = rest.split_once('/') else { return rest == "versions" };
    let rest = rest.trim_end_matches('/');
    ALLOWED.iter().any(|(allowed, pattern)| allowed == method && matches(pattern, rest))
}

fn matches(pattern: &str, path: &str) -> bool {
    let mut segments = path.split('/');
    for expected in pattern.split('/') {
        match (expected, segments.next()) {
            ("**", Some(_)) => return true,
            ("*", Some(_)) => {}
            (expected, Some(segment)) if expected == segment => {}
            _ => return false,
        }
    }
    segments.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_talk_and_read() {
        for (method, path) in [
            (Method::GET, "v3/sync"),
            (Method::PUT, "v3/rooms/!a:b/send/m.room.message/1"),
            (Method::PUT, "v3/rooms/!a:b/state/m.room.topic/"),
            (Method::GET, "v1/rooms/!a:b/relations/$e"),
            (Method::POST, "v3/join/%23a:b"),
            (Method::POST, "unstable/org.matrix.msc4140/delayed_events/id/restart"),
            (Method::POST, "unstable/io.element.msc4195/rtc/livekit/get_token"),
            (Method::POST, "v1/rtc/livekit/get_token"),
        ] {
            assert!(may(&method, &format!("/_matrix/client/{path}")), "{method} {path}");
        }
    }

    #[test]
    fn guests_found_and_rule_nothing() {
        for (method, path) in [
            (Method::POST, "v3/createRoom"),
            (Method::POST, "v3/rooms/!a:b/invite"),
            (Method::POST, "v3/rooms/!a:b/join/more"),
            (Method::POST, "v3/account/password"),
            (Method::PUT, "v3/directory/room/%23a:b"),
            (Method::DELETE, "v3/devices/A"),
            (Method::GET, "v3/admin/whois/@a:b"),
            (Method::POST, "v3/user_directory/search"),
        ] {
            assert!(!may(&method, &format!("/_matrix/client/{path}")), "{method} {path}");
        }
    }
}

//! The JSON of new events, as the room version has it.

use std::sync::Arc;

use entente_environment::Randomness;
use entente_storage::Bytes;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, Int, OwnedEventId, RoomId,
    events::TimelineEventType,
    room_version_rules::{EventIdFormatVersion, EventsReferenceFormatVersion, RoomVersionRules},
    signatures::reference_hash,
    state_res::check_pdu_format,
};
use serde_json::value::RawValue;

use super::Draft;
use crate::{
    Event, RoomError,
    signing::{SigningKeys, unhashable},
};

/// An event names at most this many events before it (S-S API, "PDUs").
pub(super) const MOST_PREV_EVENTS: usize = 20;
/// An event has at most this many bytes (C-S API, "Size limits").
const MOST_BYTES: usize = 65_535;
/// Types, state keys and ids have at most this many bytes.
const MOST_ID_BYTES: usize = 255;

/// An event that is named by another. The event itself is there where its hash is needed.
pub(super) struct Reference<'a> {
    pub(super) event_id: &'a str,
    pub(super) event: Option<Arc<Event>>,
}

/// What an event is made of.
pub(super) struct Parts<'a> {
    pub(super) draft: &'a Draft,
    pub(super) room_id: &'a RoomId,
    pub(super) prev_events: &'a [Reference<'a>],
    pub(super) auth_events: &'a [Arc<Event>],
    pub(super) depth: u64,
    pub(super) origin_server_ts: u64,
    pub(super) randomness: &'a Randomness,
}

/// Whether events name others by id and hash, as in room versions 1 and 2.
pub(crate) fn needs_hashes(rules: &RoomVersionRules) -> bool {
    rules.events_reference_format == EventsReferenceFormatVersion::V1
}

pub(super) fn raw_content(content: &CanonicalJsonObject) -> Result<Box<RawValue>, RoomError> {
    serde_json::value::to_raw_value(content).map_err(|error| RoomError::BadEvent(error.to_string()))
}

/// The canonical JSON of an event with its hash and signature, and its id.
pub(super) fn build(
    parts: &Parts<'_>,
    rules: &RoomVersionRules,
    key: &SigningKeys,
) -> Result<(Bytes, OwnedEventId), RoomError> {
    let mut event = unsigned(parts, rules)?;
    if rules.event_id_format == EventIdFormatVersion::V1 {
        let event_id = format!("${}:{}", parts.randomness.alphanumeric(18), key.server_name());
        event.insert(String::from("event_id"), string(&event_id));
    }
    sign(&mut event, rules, key)
}

/// Adds an event's hash and this server's signature. Answers its canonical JSON, and its id.
pub(crate) fn sign(
    event: &mut CanonicalJsonObject,
    rules: &RoomVersionRules,
    key: &SigningKeys,
) -> Result<(Bytes, OwnedEventId), RoomError> {
    key.hash_and_sign(event, &rules.redaction)?;
    // The size is decided on the whole event, with its signatures.
    let json = serde_json::to_vec(&event).map_err(|error| RoomError::BadEvent(error.to_string()))?;
    if json.len() > MOST_BYTES {
        return Err(RoomError::TooLarge("an event has at most 65535 bytes, with what the server adds to it"));
    }
    check_pdu_format(event, &rules.event_format).map_err(RoomError::BadEvent)?;
    Ok((json.into(), event_id(event, rules)?))
}

/// An event without its hash and signature: what another server's user is asked to sign.
pub(super) fn unsigned(
    parts: &Parts<'_>,
    rules: &RoomVersionRules,
) -> Result<CanonicalJsonObject, RoomError> {
    let draft = parts.draft;
    check_sizes(draft)?;
    let mut event = CanonicalJsonObject::new();
    let mut set = |name: &str, value: CanonicalJsonValue| event.insert(name.to_owned(), value);
    let is_create = draft.event_type == TimelineEventType::RoomCreate;
    if !(is_create && rules.authorization.room_create_event_id_as_room_id) {
        set("room_id", string(parts.room_id.as_str()));
    }
    set("type", string(&draft.event_type.to_string()));
    set("sender", string(draft.sender.as_str()));
    set("content", CanonicalJsonValue::Object(draft.content.clone()));
    set("depth", CanonicalJsonValue::Integer(integer(parts.depth)));
    set("origin_server_ts", CanonicalJsonValue::Integer(integer(parts.origin_server_ts)));
    if let Some(state_key) = &draft.state_key {
        set("state_key", string(state_key));
    }
    if let Some(redacts) = &draft.redacts
        && !rules.redaction.content_field_redacts
    {
        set("redacts", string(redacts.as_str()));
    }
    if let Some(duration) = draft.sticky {
        let duration = CanonicalJsonValue::Integer(integer(duration));
        let sticky = CanonicalJsonObject::from([(String::from("duration_ms"), duration)]);
        set("msc4354_sticky", CanonicalJsonValue::Object(sticky));
    }
    let prev_events = parts
        .prev_events
        .iter()
        .map(|reference| name_event(rules, reference.event_id, reference.event.as_deref()));
    set("prev_events", CanonicalJsonValue::Array(prev_events.collect::<Result<_, _>>()?));
    let auth_events =
        parts.auth_events.iter().map(|event| name_event(rules, event.event_id.as_str(), Some(event)));
    set("auth_events", CanonicalJsonValue::Array(auth_events.collect::<Result<_, _>>()?));
    Ok(event)
}

/// An event's id: written in it, or made from its reference hash since room version 3.
pub(crate) fn event_id(
    event: &CanonicalJsonObject,
    rules: &RoomVersionRules,
) -> Result<OwnedEventId, RoomError> {
    let event_id = match rules.event_id_format {
        EventIdFormatVersion::V1 => match event.get("event_id") {
            Some(CanonicalJsonValue::String(event_id)) => event_id.clone(),
            _ => return Err(RoomError::BadEvent(String::from("the event has no event_id"))),
        },
        _ => format!("${}", hash_of(event, rules)?),
    };
    EventId::parse(event_id).map_err(|error| RoomError::BadEvent(format!("the event's id: {error}")))
}

fn hash_of(event: &CanonicalJsonObject, rules: &RoomVersionRules) -> Result<String, RoomError> {
    reference_hash(event, rules).map_err(unhashable)
}

fn name_event(
    rules: &RoomVersionRules,
    event_id: &str,
    event: Option<&Event>,
) -> Result<CanonicalJsonValue, RoomError> {
    if !needs_hashes(rules) {
        return Ok(string(event_id));
    }
    let event =
        event.ok_or_else(|| RoomError::Internal(String::from("an event before this one is missing")))?;
    let object: CanonicalJsonObject = serde_json::from_slice(event.json())
        .map_err(|error| RoomError::Internal(format!("a stored event: {error}")))?;
    let hashes = CanonicalJsonObject::from([(String::from("sha256"), string(&hash_of(&object, rules)?))]);
    Ok(CanonicalJsonValue::Array(vec![string(event_id), CanonicalJsonValue::Object(hashes)]))
}

fn check_sizes(draft: &Draft) -> Result<(), RoomError> {
    let state_key_is_long = draft.state_key.as_ref().is_some_and(|key| key.len() > MOST_ID_BYTES);
    if draft.event_type.to_string().len() > MOST_ID_BYTES || state_key_is_long {
        return Err(RoomError::TooLarge("an event type and a state key have at most 255 bytes"));
    }
    Ok(())
}

fn string(text: &str) -> CanonicalJsonValue {
    CanonicalJsonValue::String(text.to_owned())
}

fn integer(number: u64) -> Int {
    Int::try_from(number).unwrap_or(Int::MAX)
}

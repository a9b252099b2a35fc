use entente_storage::Bytes;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedServerName,
    canonical_json::redact,
    events::room::policy::POLICY_SERVER_ED25519_SIGNING_KEY_ID,
    room_version_rules::RoomVersionRules,
    signatures::{PublicKeyMap, Verified, required_server_signatures_to_verify_event, verify_event},
    state_res::check_pdu_format,
};

use crate::{RoomError, compose::event_id, event::check_readable};

/// Signatures of one server that are looked at.
const MOST_KEYS: usize = 10;
/// An event has at most this many bytes (S-S API, "PDUs").
const MOST_BYTES: usize = 65_535;

/// Stands in an event in which null stands for numbers that canonical JSON does not have. It is no field of the event: with it nothing is
/// as it was hashed. Whoever sends it of their own accord does themselves no good.
pub const INEXACT: &str = "entente.inexact";

/// An event as another server sent it. Its form was checked, its signatures were not.
#[derive(Clone, Debug)]
pub struct Pdu {
    event_id: OwnedEventId,
    object: CanonicalJsonObject,
    json: Bytes,
}

/// An event from another server whose signatures are valid. Where its content is not what was hashed, it is redacted.
#[derive(Clone, Debug)]
pub struct VerifiedPdu {
    /// Its id.
    pub event_id: OwnedEventId,
    /// The events before it.
    pub prev_events: Vec<OwnedEventId>,
    /// How deep it is in the graph, as its sender says.
    pub depth: u64,
    pub(crate) json: Bytes,
    pub(crate) auth_events: Vec<OwnedEventId>,
    pub(crate) event_type: String,
}

impl Pdu {
    /// Reads an event of a room of some version, and computes its id. One that is marked as [`INEXACT`] is refused in rooms of versions that
    /// are strict about canonical JSON. In the others it is one whose content is not what was hashed: its place in the room and what
    /// authorises others are the same for everybody, and the rest of its content is not shown.
    pub fn new(mut object: CanonicalJsonObject, rules: &RoomVersionRules) -> Result<Self, RoomError> {
        if object.remove(INEXACT).is_some() && rules.authorization.strict_canonical_json {
            return Err(RoomError::BadEvent(String::from("the event is not canonical JSON")));
        }
        let json = serde_json::to_vec(&object).map_err(|error| RoomError::BadEvent(error.to_string()))?;
        if json.len() > MOST_BYTES {
            return Err(RoomError::TooLarge("an event has at most 65535 bytes"));
        }
        check_pdu_format(&object, &rules.event_format).map_err(RoomError::BadEvent)?;
        if !matches!(object.get("content"), Some(CanonicalJsonValue::Object(_))) {
            return Err(RoomError::BadEvent(String::from("the content of an event is an object")));
        }
        // One that is stored and cannot be read again would be in the way of those around it.
        check_readable(&json)?;
        let event_id = event_id(&object, rules)?;
        Ok(Self { event_id, object, json: json.into() })
    }

    /// Its id.
    pub fn event_id(&self) -> &OwnedEventId {
        &self.event_id
    }

    /// The signatures that it must have: of which servers, and by which of their keys it has them.
    pub fn required_signatures(
        &self,
        rules: &RoomVersionRules,
    ) -> Result<Vec<(OwnedServerName, Vec<String>)>, RoomError> {
        let servers = required_server_signatures_to_verify_event(&self.object, &rules.signatures);
        let servers = servers.map_err(|error| RoomError::BadEvent(error.to_string()))?;
        let signatures = self.object.get("signatures").and_then(|signatures| signatures.as_object());
        let by = |server: &OwnedServerName| {
            let of_server = signatures.and_then(|signatures| signatures.get(server.as_str()));
            let of_server = of_server.and_then(|of_server| of_server.as_object());
            // That key is in the room's state, and not among those that servers publish.
            let published = |key_id: &&String| *key_id != POLICY_SERVER_ED25519_SIGNING_KEY_ID;
            of_server
                .map(|of_server| of_server.keys().filter(published).take(MOST_KEYS).cloned().collect())
                .unwrap_or_default()
        };
        Ok(servers.into_iter().map(|server| (server.clone(), by(&server))).collect())
    }

    /// When its sender says that it was sent, in ms since 1970.
    pub fn origin_server_ts(&self) -> u64 {
        whole(&self.object, "origin_server_ts")
    }

    /// Who sent it, as it stands there.
    pub fn sender(&self) -> &str {
        self.object.get("sender").and_then(|sender| sender.as_str()).unwrap_or_default()
    }

    /// Checks the signatures with these keys. Computation only, some 50 µs for each.
    pub fn verify(self, keys: &PublicKeyMap, rules: &RoomVersionRules) -> Result<VerifiedPdu, RoomError> {
        let refused =
            |error: String| RoomError::Unauthorized(format!("the event is not signed well: {error}"));
        let verified = verify_event(keys, &self.object, rules).map_err(|error| refused(error.to_string()))?;
        let (object, json) = match verified {
            Verified::All => (self.object, self.json),
            Verified::Signatures => {
                let redacted = redact(self.object, &rules.redaction, None)
                    .map_err(|error| RoomError::BadEvent(error.to_string()))?;
                let json =
                    serde_json::to_vec(&redacted).map_err(|error| RoomError::BadEvent(error.to_string()))?;
                (redacted, json.into())
            }
        };
        verified_pdu(self.event_id, &object, json)
    }

    /// An event that was made and signed here.
    pub(crate) fn own(self) -> Result<VerifiedPdu, RoomError> {
        verified_pdu(self.event_id, &self.object, self.json)
    }
}

fn verified_pdu(
    event_id: OwnedEventId,
    object: &CanonicalJsonObject,
    json: Bytes,
) -> Result<VerifiedPdu, RoomError> {
    let event_type = object.get("type").and_then(|event_type| event_type.as_str()).unwrap_or_default();
    Ok(VerifiedPdu {
        event_id,
        event_type: event_type.to_owned(),
        depth: whole(object, "depth"),
        prev_events: referenced(object, "prev_events")?,
        auth_events: referenced(object, "auth_events")?,
        json,
    })
}

fn whole(object: &CanonicalJsonObject, field: &str) -> u64 {
    let number = object.get(field).and_then(CanonicalJsonValue::as_integer);
    number.and_then(|number| u64::try_from(i64::from(number)).ok()).unwrap_or_default()
}

/// The events that one names, by id, or by id and hash.
fn referenced(object: &CanonicalJsonObject, field: &str) -> Result<Vec<OwnedEventId>, RoomError> {
    let references = object.get(field).and_then(|references| references.as_array()).unwrap_or_default();
    let mut ids = Vec::with_capacity(references.len());
    for reference in references {
        let id = reference.as_str().or_else(|| reference.as_array()?.first()?.as_str()).unwrap_or_default();
        let id = id.try_into().map_err(|_| RoomError::BadEvent(format!("{field} names what is no event")))?;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

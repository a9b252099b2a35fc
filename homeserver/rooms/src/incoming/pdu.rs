use entente_storage::Bytes;
use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedServerName,
    canonical_json::redact,
    room_version_rules::RoomVersionRules,
    signatures::{PublicKeyMap, Verified, required_server_signatures_to_verify_event, verify_event},
    state_res::check_pdu_format,
};

use crate::{RoomError, compose::event_id};

/// An event has at most this many bytes (S-S API, "PDUs").
const MOST_BYTES: usize = 65_535;

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
    pub(crate) json: Bytes,
    pub(crate) prev_events: Vec<OwnedEventId>,
    pub(crate) auth_events: Vec<OwnedEventId>,
    pub(crate) event_type: String,
}

impl Pdu {
    /// Reads an event of a room of some version, and computes its id.
    pub fn new(object: CanonicalJsonObject, rules: &RoomVersionRules) -> Result<Self, RoomError> {
        let json = serde_json::to_vec(&object).map_err(|error| RoomError::BadEvent(error.to_string()))?;
        if json.len() > MOST_BYTES {
            return Err(RoomError::TooLarge("an event has at most 65535 bytes"));
        }
        check_pdu_format(&object, &rules.event_format).map_err(RoomError::BadEvent)?;
        let event_id = event_id(&object, rules)?;
        Ok(Self { event_id, object, json: json.into() })
    }

    /// Its id.
    pub fn event_id(&self) -> &OwnedEventId {
        &self.event_id
    }

    /// The servers whose signatures it must have.
    pub fn required_signatures(&self, rules: &RoomVersionRules) -> Result<Vec<OwnedServerName>, RoomError> {
        let servers = required_server_signatures_to_verify_event(&self.object, &rules.signatures);
        Ok(servers.map_err(|error| RoomError::BadEvent(error.to_string()))?.into_iter().collect())
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
        let event_type = object.get("type").and_then(|event_type| event_type.as_str()).unwrap_or_default();
        Ok(VerifiedPdu {
            event_id: self.event_id,
            event_type: event_type.to_owned(),
            prev_events: referenced(&object, "prev_events")?,
            auth_events: referenced(&object, "auth_events")?,
            json,
        })
    }
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

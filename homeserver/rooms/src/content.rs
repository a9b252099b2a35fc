//! The contents of events that the server makes.

use ruma::{CanonicalJsonObject, CanonicalJsonValue};
use serde_json::Value;

use crate::RoomError;

/// A JSON object in canonical form. Refuses what canonical JSON does not have: other values, fractions, great integers.
pub fn object(value: Value) -> Result<CanonicalJsonObject, RoomError> {
    match CanonicalJsonValue::try_from(value) {
        Ok(CanonicalJsonValue::Object(object)) => Ok(object),
        Ok(_) => Err(RoomError::BadEvent(String::from("the content of an event is a JSON object"))),
        Err(error) => Err(RoomError::BadEvent(format!("the content of an event is canonical JSON: {error}"))),
    }
}

/// How a user appears in a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// The display name.
    pub displayname: Option<String>,
    /// The avatar, an `mxc` URI.
    pub avatar_url: Option<String>,
}

impl Profile {
    /// The content of a membership event.
    pub(crate) fn member_content(&self, membership: &str, reason: Option<&str>) -> CanonicalJsonObject {
        let mut content = CanonicalJsonObject::new();
        let mut set = |name: &str, value: &str| {
            content.insert(name.to_owned(), CanonicalJsonValue::String(value.to_owned()));
        };
        set("membership", membership);
        if let Some(displayname) = &self.displayname {
            set("displayname", displayname);
        }
        if let Some(avatar_url) = &self.avatar_url {
            set("avatar_url", avatar_url);
        }
        if let Some(reason) = reason {
            set("reason", reason);
        }
        content
    }
}

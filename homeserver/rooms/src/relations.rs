use ruma::OwnedEventId;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::Event;

/// How an event relates to another (C-S API, "Forming relationships between events").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// `m.replace`, `m.annotation`, `m.thread`, `m.reference`, or another.
    pub rel_type: String,
    /// The event that it relates to.
    pub event_id: OwnedEventId,
}

/// Relation types have at most this many bytes; a longer one is not indexed.
const MOST_TYPE_BYTES: usize = 255;

impl Relation {
    /// What an event says in `m.relates_to`.
    pub fn of(event: &Event) -> Option<Self> {
        #[derive(Deserialize)]
        struct Content {
            #[serde(rename = "m.relates_to")]
            relates_to: Option<RelatesTo>,
        }
        #[derive(Deserialize)]
        struct RelatesTo {
            rel_type: Option<String>,
            event_id: Option<OwnedEventId>,
        }
        if event.state_key.is_some() || !contains(event.content_bytes(), b"\"m.relates_to\"") {
            return None;
        }
        let RelatesTo { rel_type, event_id } = event.content_as::<Content>()?.relates_to?;
        let rel_type = rel_type.filter(|rel_type| rel_type.len() <= MOST_TYPE_BYTES)?;
        Some(Self { rel_type, event_id: event_id? })
    }

    /// The root of the thread that an event is in.
    pub fn thread_root(event: &Event) -> Option<OwnedEventId> {
        Self::of(event).filter(|relation| relation.rel_type == "m.thread").map(|relation| relation.event_id)
    }
}

/// Parsing the content of every message would cost more than looking for the name first.
fn contains(bytes: &[u8], name: &[u8]) -> bool {
    bytes.windows(name.len()).any(|window| window == name)
}

/// Whether `edit` is a valid replacement of `original` (C-S API, "Validity of replacement events").
pub(crate) fn is_edit_of(edit: &Event, original: &Event) -> bool {
    #[derive(Deserialize)]
    struct Content<'a> {
        #[serde(rename = "m.new_content", borrow)]
        new_content: Option<&'a RawValue>,
    }
    let is_encrypted = || edit.event_type.to_string() == "m.room.encrypted";
    let has_new_content =
        || edit.content_as::<Content<'_>>().is_some_and(|content| content.new_content.is_some());
    edit.sender == original.sender
        && edit.event_type == original.event_type
        && original.state_key.is_none()
        && edit.state_key.is_none()
        && edit.redacted_by().is_none()
        && Relation::of(original).is_none_or(|relation| relation.rel_type != "m.replace")
        && (is_encrypted() || has_new_content())
}

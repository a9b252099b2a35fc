//! How a client wants to be given events (C-S API, "Filtering": `event_fields` and `event_format`).

use entente_rooms::{Event, RoomView, Shape};
use ruma::api::client::filter::{EventFormat, FilterDefinition};
use serde_json::{Map, Value};

/// Which fields of events are given, and whether as servers send them to each other.
#[derive(Clone, Debug, Default)]
pub(crate) struct EventForm {
    /// Paths into events; `None`: everything.
    fields: Option<Vec<Vec<String>>>,
    pub(crate) of_federation: bool,
}

impl From<&FilterDefinition> for EventForm {
    fn from(definition: &FilterDefinition) -> Self {
        let fields = definition.event_fields.as_ref();
        Self {
            fields: fields.map(|fields| fields.iter().map(|field| path(field)).collect()),
            of_federation: definition.event_format == EventFormat::Federation,
        }
    }
}

impl EventForm {
    /// What a client gets of an event.
    pub(crate) fn pick(&self, json: Vec<u8>) -> Vec<u8> {
        let Some(fields) = &self.fields else { return json };
        let Ok(event) = serde_json::from_slice::<Map<String, Value>>(&json) else { return json };
        let mut picked = Map::new();
        for path in fields {
            copy(&event, path, &mut picked);
        }
        Value::Object(picked).to_string().into_bytes()
    }

    /// Writes a state event.
    pub(crate) fn write_state(&self, view: &RoomView, json: &mut Vec<u8>, event: &Event) {
        if self.fields.is_none() && !self.of_federation {
            return view.write_state_event(json, event, Shape::WithoutRoom);
        }
        let mut written = Vec::new();
        if self.of_federation {
            written.extend_from_slice(event.json());
        } else {
            view.write_state_event(&mut written, event, Shape::WithoutRoom);
        }
        json.extend(self.pick(written));
    }
}

/// The names between the dots of a field; a dot in a name has a backslash before it.
fn path(field: &str) -> Vec<String> {
    let mut names = vec![String::new()];
    let mut characters = field.chars();
    while let Some(character) = characters.next() {
        let next = match character {
            '.' => {
                names.push(String::new());
                continue;
            }
            '\\' => characters.next(),
            character => Some(character),
        };
        if let Some(name) = names.last_mut() {
            name.extend(next);
        }
    }
    names
}

fn copy(from: &Map<String, Value>, path: &[String], to: &mut Map<String, Value>) {
    let Some((name, rest)) = path.split_first() else { return };
    match (from.get(name), rest) {
        (Some(value), []) => drop(to.insert(name.clone(), value.clone())),
        (Some(Value::Object(inner)), rest) => {
            let place = to.entry(name.clone()).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(place) = place {
                copy(inner, rest, place);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_picked_by_their_paths() {
        let event = json!({
            "type": "m.room.message", "sender": "@a:b",
            "content": { "body": "x", "msgtype": "m.text", "m.relates_to": { "event_id": "$e", "rel_type": "r" } },
        });
        for (fields, expected) in [
            (&["type"][..], json!({ "type": "m.room.message" })),
            (&["content.body", "sender"], json!({ "content": { "body": "x" }, "sender": "@a:b" })),
            (
                &[r"content.m\.relates_to.event_id"],
                json!({ "content": { "m.relates_to": { "event_id": "$e" } } }),
            ),
            (&["sender.x", "nothing", ""], json!({})),
        ] {
            let mut definition = FilterDefinition::empty();
            definition.event_fields = Some(fields.iter().map(ToString::to_string).collect());
            let picked = EventForm::from(&definition).pick(event.to_string().into_bytes());
            assert_eq!(serde_json::from_slice::<Value>(&picked).ok(), Some(expected), "{fields:?}");
        }
    }
}

//! Who says to be in a call, by an event that sticks to the room (MSC4143, MSC4354).

use entente_appservice::{
    Event,
    ruma::events::{False, MessageLikeEventContent, MessageLikeEventType, StaticEventContent},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What clients have in such an event. Without most of it, it says that they left.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct StickyMembership {
    slot_id: Option<Value>,
    application: Option<Value>,
    member: Option<Value>,
    /// Which of a user's memberships it is.
    #[serde(alias = "sticky_key")]
    msc4354_sticky_key: Option<String>,
}

impl StaticEventContent for StickyMembership {
    const TYPE: &'static str = "org.matrix.msc4143.rtc.member";
    type IsPrefix = False;
}

impl MessageLikeEventContent for StickyMembership {
    fn event_type(&self) -> MessageLikeEventType {
        MessageLikeEventType::from(Self::TYPE)
    }
}

/// No event sticks for longer, in milliseconds.
const LONGEST: u64 = 60 * 60 * 1_000;

/// What is to be noted of such an event: which membership, and until when it holds unless it is renewed, in milliseconds since 1970;
/// `None`: it is over.
pub(super) fn of(event: &Event<StickyMembership>) -> (String, Option<u64>) {
    let StickyMembership { slot_id, application, member, msc4354_sticky_key } = &event.content;
    let is_there = slot_id.is_some() && application.is_some();
    let is_there = is_there && member.as_ref().is_some_and(has_not_left);
    let until = event.sticky_ms.map(|sticky| event.origin_server_ts.saturating_add(sticky.min(LONGEST)));
    // A space is in no user's id, and not at the beginning of the state key of a membership in the room's state.
    let membership = format!(" {} {}", event.sender, msc4354_sticky_key.as_deref().unwrap_or_default());
    (membership, until.filter(|_| is_there))
}

fn has_not_left(member: &Value) -> bool {
    member.is_object() && member.get("membership").is_none_or(|membership| membership != "leave")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn until(content: Value, sticky_ms: Option<u64>) -> Option<u64> {
        let event = Event {
            event_id: "$1".try_into().unwrap(),
            room_id: "!r:x".try_into().unwrap(),
            sender: "@a:x".try_into().unwrap(),
            origin_server_ts: 1_000,
            sticky_ms,
            content: serde_json::from_value(content).unwrap(),
            encryption: None,
        };
        let (membership, until) = of(&event);
        assert_eq!(membership, " @a:x one");
        until
    }

    #[test]
    fn who_says_nothing_more_has_left() {
        let there = json!({
            "slot_id": "m.call#ROOM", "application": { "type": "m.call" }, "msc4354_sticky_key": "one",
            "member": { "id": "one", "user_id": "@a:x", "device_id": "D" },
        });
        assert_eq!(until(there.clone(), Some(60_000)), Some(61_000));
        assert_eq!(until(there.clone(), Some(u64::MAX)), Some(1_000 + LONGEST), "nothing sticks for longer");
        assert_eq!(until(there.clone(), None), None, "it does not stick");
        let mut by_its_name = there.clone();
        by_its_name["sticky_key"] =
            by_its_name.as_object_mut().unwrap().remove("msc4354_sticky_key").unwrap();
        assert_eq!(until(by_its_name, Some(1)), Some(1_001));
        let mut left = there;
        left["member"]["membership"] = json!("leave");
        assert_eq!(until(left, Some(60_000)), None);
        assert_eq!(until(json!({ "msc4354_sticky_key": "one" }), Some(60_000)), None);
    }
}

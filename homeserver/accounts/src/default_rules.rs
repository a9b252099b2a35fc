//! The push rules that everybody has: those of the spec, and those by which calls ring (MSC4075).

use ruma::{
    UserId,
    push::{
        Action, ConditionalPushRule, ConditionalPushRuleInit, PredefinedOverrideRuleId, PushCondition,
        Ruleset,
    },
};
use serde::Deserialize;
use serde_json::{Value, json};

/// The event by which somebody was called at first (MSC4075),
const INVITE: &str = "org.matrix.msc4075.rtc.invite";
/// and those by which clients call now, if they say that it is to ring: `m.rtc.notification`, and before it has that name.
const NOTIFICATIONS: &str = "*.rtc.notification";

/// The rules of a user who never changed any.
pub(crate) fn default_rules(user_id: &UserId) -> Ruleset {
    let mut rules = Ruleset::server_default(user_id);
    let invite = json!([{ "kind": "event_match", "key": "type", "pattern": INVITE }]);
    let ring = json!([
        { "kind": "event_match", "key": "type", "pattern": NOTIFICATIONS },
        { "kind": "event_property_is", "key": "content.notification_type", "value": "ring" },
    ]);
    let mentioned = json!([
        { "kind": "event_property_contains", "key": r"content.m\.mentions.user_ids", "value": user_id },
    ]);
    let everybody = json!([
        { "kind": "event_property_is", "key": r"content.m\.mentions.room", "value": true },
        { "kind": "sender_notification_permission", "key": "room" },
    ]);
    let placed = [
        ("invite_for_me", &invite, &mentioned, PredefinedOverrideRuleId::IsUserMention),
        ("ring_for_me", &ring, &mentioned, PredefinedOverrideRuleId::IsUserMention),
        ("invite_for_room", &invite, &everybody, PredefinedOverrideRuleId::IsRoomMention),
        ("ring_for_room", &ring, &everybody, PredefinedOverrideRuleId::IsRoomMention),
    ];
    for (name, what, whom, before) in placed {
        let rule = ringing(&format!(".org.matrix.msc4075.rule.rtc.{name}"), &[what, whom]);
        let place = rules.override_.get_index_of(before.as_str()).unwrap_or(rules.override_.len());
        rules.override_.shift_insert(place, rule);
    }
    rules
}

fn ringing(rule_id: &str, conditions: &[&Value]) -> ConditionalPushRule {
    let read = |conditions: &&Value| {
        Vec::<PushCondition>::deserialize(*conditions).expect("the conditions are written here")
    };
    let conditions = conditions.iter().flat_map(read).collect();
    let actions: Vec<Action> =
        serde_json::from_value(json!(["notify", { "set_tweak": "sound", "value": "ring" }]))
            .expect("the actions are written here");
    let init = ConditionalPushRuleInit {
        actions,
        default: true,
        enabled: true,
        rule_id: rule_id.to_owned(),
        conditions,
    };
    init.into()
}

#[cfg(test)]
mod tests {
    use ruma::{owned_room_id, user_id};

    use super::*;
    use crate::{PushEvaluator, PushPowerLevels, PushRoom, PushUser};

    fn rings(event_type: &str, content: &Value) -> bool {
        let event = json!({ "type": event_type, "sender": "@alice:b", "content": content });
        let powers = PushPowerLevels { sender: 100, notifications: std::collections::BTreeMap::new() };
        let room = PushRoom { room_id: owned_room_id!("!r:b"), member_count: 9, power_levels: Some(powers) };
        let evaluator = PushEvaluator::new(event.to_string().as_bytes(), room).expect("an event");
        let user_id = user_id!("@bob:b");
        let rules = default_rules(user_id);
        let outcome = evaluator.evaluate(&rules, PushUser { user_id, display_name: "Bob" });
        outcome.sound == Some("ring")
    }

    #[test]
    fn calls_ring_for_whom_they_are() {
        let (me, all) = (json!({ "user_ids": ["@bob:b"] }), json!({ "room": true }));
        for event_type in ["org.matrix.msc4075.rtc.notification", "m.rtc.notification"] {
            for mentions in [&me, &all] {
                let ring = json!({ "notification_type": "ring", "m.mentions": mentions });
                assert!(rings(event_type, &ring), "{ring}");
                let quiet = json!({ "notification_type": "notification", "m.mentions": mentions });
                assert!(!rings(event_type, &quiet), "{quiet}");
            }
            let others = json!({ "notification_type": "ring", "m.mentions": { "user_ids": ["@carol:b"] } });
            assert!(!rings(event_type, &others));
        }
        assert!(rings(INVITE, &json!({ "m.mentions": me })) && rings(INVITE, &json!({ "m.mentions": all })));
        assert!(!rings("m.room.message", &json!({ "notification_type": "ring", "m.mentions": me })));
    }
}

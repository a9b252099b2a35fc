//! The push rules that everybody has: those of the spec, and those by which calls ring (MSC4075).

use ruma::{
    UserId,
    push::{
        Action, ConditionalPushRule, ConditionalPushRuleInit, PredefinedOverrideRuleId, PushCondition,
        Ruleset,
    },
};
use serde_json::json;

/// The event by which somebody is called (MSC4075).
const INVITE: &str = "org.matrix.msc4075.rtc.invite";

/// The rules of a user who never changed any.
pub(crate) fn default_rules(user_id: &UserId) -> Ruleset {
    let mut rules = Ruleset::server_default(user_id);
    let mentioned = json!([
        { "kind": "event_match", "key": "type", "pattern": INVITE },
        { "kind": "event_property_contains", "key": r"content.m\.mentions.user_ids", "value": user_id },
    ]);
    let everybody = json!([
        { "kind": "event_match", "key": "type", "pattern": INVITE },
        { "kind": "event_property_is", "key": r"content.m\.mentions.room", "value": true },
        { "kind": "sender_notification_permission", "key": "room" },
    ]);
    let placed = [
        ("invite_for_me", mentioned, PredefinedOverrideRuleId::IsUserMention),
        ("invite_for_room", everybody, PredefinedOverrideRuleId::IsRoomMention),
    ];
    for (name, conditions, before) in placed {
        let rule = ringing(&format!(".org.matrix.msc4075.rule.rtc.{name}"), conditions);
        let place = rules.override_.get_index_of(before.as_str()).unwrap_or(rules.override_.len());
        rules.override_.shift_insert(place, rule);
    }
    rules
}

fn ringing(rule_id: &str, conditions: serde_json::Value) -> ConditionalPushRule {
    let conditions: Vec<PushCondition> =
        serde_json::from_value(conditions).expect("the conditions are written here");
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

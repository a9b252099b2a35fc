use ruma::{
    owned_room_id, owned_user_id,
    power_levels::NotificationPowerLevels,
    push::{
        NewConditionalPushRule, NewPatternedPushRule, NewPushRule, NewSimplePushRule,
        PushConditionPowerLevelsCtx, PushConditionRoomCtx,
    },
    room_version_rules::{AuthorizationRules, RoomPowerLevelsRules},
    serde::Raw,
    user_id,
};
use serde_json::json;

use super::*;

const ROOM: &str = "!room:example.org";

fn alice() -> PushUser<'static> {
    PushUser { user_id: user_id!("@alice:example.org"), display_name: "Alice Liddell" }
}

fn room(member_count: u64, sender: Option<i64>) -> PushRoom {
    let notifications = BTreeMap::from([(String::from("room"), 50)]);
    let power_levels = sender.map(|sender| PushPowerLevels { sender, notifications });
    PushRoom { room_id: owned_room_id!("!room:example.org"), member_count, power_levels }
}

fn conditional(rule_id: &str, conditions: Value) -> NewConditionalPushRule {
    let conditions = serde_json::from_value(conditions).unwrap();
    NewConditionalPushRule::new(rule_id.to_owned(), conditions, actions(json!(["notify"])))
}

fn actions(actions: Value) -> Vec<Action> {
    serde_json::from_value(actions).unwrap()
}

fn defaults() -> Ruleset {
    Ruleset::server_default(alice().user_id)
}

fn with(rule: NewPushRule) -> Ruleset {
    let mut rules = defaults();
    rules.insert(rule, None, None).unwrap();
    rules
}

fn overriding(conditions: Value) -> Ruleset {
    with(NewPushRule::Override(conditional("own", conditions)))
}

fn keyword(pattern: &str) -> Ruleset {
    let highlight =
        json!(["notify", { "set_tweak": "highlight" }, { "set_tweak": "sound", "value": "bell" }]);
    let rule = NewPatternedPushRule::new(String::from("own"), pattern.to_owned(), actions(highlight));
    with(NewPushRule::Content(rule))
}

fn message(body: &str) -> Value {
    json!({
        "type": "m.room.message",
        "sender": "@bob:example.org",
        "event_id": "$event",
        "origin_server_ts": 1_432_735_824_653_u64,
        "content": { "msgtype": "m.text", "body": body },
    })
}

fn evaluator(event: &Value, room: PushRoom) -> PushEvaluator {
    PushEvaluator::new(event.to_string().as_bytes(), room).unwrap()
}

fn notifies(rules: &Ruleset, event: &Value) -> bool {
    evaluator(event, room(10, Some(0))).evaluate(rules, alice()).notify
}

/// What ruma itself finds.
async fn expected(rules: &Ruleset, event: &Value, room: &PushRoom) -> Value {
    let member_count = UInt::new_saturating(room.member_count);
    let (user_id, name) = (alice().user_id.to_owned(), alice().display_name.to_owned());
    let mut context = PushConditionRoomCtx::new(room.room_id.clone(), member_count, user_id, name);
    if let Some(levels) = &room.power_levels {
        let power_levels = RoomPowerLevelsRules::new(&AuthorizationRules::V11, None);
        // Everybody who sends something has this level.
        let (users, default) = (BTreeMap::new(), levels.sender.try_into().unwrap());
        let levels =
            PushConditionPowerLevelsCtx::new(users, default, NotificationPowerLevels::new(), power_levels);
        context = context.with_power_levels(levels);
    }
    let event: Raw<Value> = Raw::from_json_string(event.to_string()).unwrap();
    json!(rules.get_actions(&event, &context).await)
}

fn events() -> Vec<Value> {
    let contents = [
        ("m.room.message", json!({ "msgtype": "m.text", "body": "The cake is a lie, Alice Liddell" })),
        ("m.room.message", json!({ "msgtype": "m.notice", "body": "cake" })),
        ("m.room.message", json!({ "msgtype": "m.text", "body": "PANCAKES for @room" })),
        (
            "m.room.message",
            json!({ "body": "one_cake", "m.mentions": { "user_ids": ["@alice:example.org"] } }),
        ),
        ("m.room.message", json!({ "body": "all", "m.mentions": { "room": true } })),
        ("m.room.message", json!({ "body": "", "m.mentions": {} })),
        (
            "m.room.message",
            json!({ "body": 7, "m.mentions": { "room": "true", "user_ids": "@alice:example.org" } }),
        ),
        (
            "m.room.message",
            json!({ "body": "* x", "m.relates_to": { "rel_type": "m.replace", "event_id": "$x" }, "msgtype": "m.text" }),
        ),
        ("m.room.encrypted", json!({ "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "cake" })),
        ("m.reaction", json!({ "m.relates_to": { "rel_type": "m.annotation", "key": "+" } })),
        (
            "m.call.invite",
            json!({ "call_id": "1", "version": "1", "flag": true, "count": 3, "nothing": null }),
        ),
        ("org.example.custom", json!({ "list": ["a", 1, null, true], "deep": { "a.b": { "c\\d": "X" } } })),
    ];
    let state = [
        ("m.room.member", "@alice:example.org", json!({ "membership": "invite" })),
        ("m.room.member", "@alice:example.org", json!({ "membership": "join" })),
        ("m.room.member", "@carol:example.org", json!({ "membership": "invite" })),
        ("m.room.tombstone", "", json!({ "body": "moved", "replacement_room": "!new:example.org" })),
        ("m.room.tombstone", "other", json!({})),
        ("m.room.server_acl", "", json!({ "allow": ["*"] })),
        ("m.room.topic", "", json!({ "topic": "cake" })),
    ];
    let mut events = Vec::new();
    for sender in ["@bob:example.org", "@carol:example.org", "@alice:example.org"] {
        for (event_type, content) in &contents {
            events.push(json!({ "type": event_type, "sender": sender, "content": content }));
        }
        for (event_type, state_key, content) in &state {
            let event = json!({
                "type": event_type, "sender": sender, "state_key": state_key, "content": content,
                "unsigned": { "age": 1 },
            });
            events.push(event);
        }
    }
    events
}

fn rulesets() -> Vec<Ruleset> {
    let mut muted = defaults();
    muted.set_enabled(ruma::push::RuleKind::Override, ".m.rule.master", true).unwrap();
    let silent = |id: &str| NewSimplePushRule::new(id.try_into().unwrap(), Vec::new());
    let mut rulesets = vec![
        Ruleset::new(),
        defaults(),
        muted,
        with(NewPushRule::Room(silent(ROOM))),
        with(NewPushRule::Room(silent("!other:example.org"))),
        with(NewPushRule::Sender(NewSimplePushRule::new(owned_user_id!("@carol:example.org"), Vec::new()))),
        with(NewPushRule::Underride(conditional("own", json!([])))),
    ];
    for pattern in
        ["cake", "CAKE", "c?ke", "*cake*", "cake*lie", "?cake", "cak", "alice liddell", "", "*", "?"]
    {
        rulesets.push(keyword(pattern));
        rulesets
            .push(overriding(json!([{ "kind": "event_match", "key": "content.body", "pattern": pattern }])));
    }
    let conditions = [
        json!({ "kind": "contains_display_name" }),
        json!({ "kind": "room_member_count", "is": "2" }),
        json!({ "kind": "room_member_count", "is": "<10" }),
        json!({ "kind": "room_member_count", "is": ">=10" }),
        json!({ "kind": "sender_notification_permission", "key": "room" }),
        json!({ "kind": "sender_notification_permission", "key": "other" }),
        json!({ "kind": "event_match", "key": "room_id", "pattern": "!ROOM:*" }),
        json!({ "kind": "event_match", "key": "type", "pattern": "m.room.*" }),
        json!({ "kind": "event_match", "key": "type", "pattern": "*e" }),
        json!({ "kind": "event_match", "key": "sender", "pattern": "@c*:example.org" }),
        json!({ "kind": "event_match", "key": "content.membership", "pattern": "jo?n" }),
        json!({ "kind": "event_match", "key": "content.count", "pattern": "3" }),
        json!({ "kind": "event_match", "key": r"content.deep.a\.b.c\\d", "pattern": "x" }),
        json!({ "kind": "event_match", "key": "content.deep.a.b", "pattern": "*" }),
        json!({ "kind": "event_property_is", "key": "content.flag", "value": true }),
        json!({ "kind": "event_property_is", "key": "content.count", "value": 3 }),
        json!({ "kind": "event_property_is", "key": "content.count", "value": "3" }),
        json!({ "kind": "event_property_is", "key": "content.nothing", "value": null }),
        json!({ "kind": "event_property_is", "key": "content.missing", "value": null }),
        json!({ "kind": "event_property_is", "key": "content.version", "value": "1" }),
        json!({ "kind": "event_property_contains", "key": "content.list", "value": "a" }),
        json!({ "kind": "event_property_contains", "key": "content.list", "value": 1 }),
        json!({ "kind": "event_property_contains", "key": "content.list", "value": null }),
        json!({ "kind": "event_property_contains", "key": "content.list", "value": "A" }),
        json!({ "kind": "org.example.unknown", "key": "type" }),
    ];
    rulesets.extend(conditions.map(|condition| overriding(json!([condition]))));
    rulesets
}

#[tokio::test]
async fn rules_say_what_ruma_says() {
    let rulesets = rulesets();
    let mut notified = 0;
    for event in events() {
        for room in [room(2, None), room(2, Some(50)), room(10, Some(49)), room(10, Some(100))] {
            let evaluator = evaluator(&event, room.clone());
            for (number, rules) in rulesets.iter().enumerate() {
                let outcome = evaluator.evaluate(rules, alice());
                let expected = expected(rules, &event, &room).await;
                assert_eq!(json!(outcome.actions), expected, "rules {number}, {room:?}: {event}");
                notified += u32::from(outcome.notify);
            }
        }
    }
    assert!(notified > 1_000, "{notified} cases are about something");
}

#[test]
fn an_outcome_says_how_to_notify() {
    let rules = keyword("cake");
    let evaluator = evaluator(&message("a cake"), room(10, None));
    let outcome = evaluator.evaluate(&rules, alice());
    assert_eq!((outcome.notify, outcome.highlight, outcome.sound), (true, true, Some("bell")));
    let rules = defaults();
    let outcome = evaluator.evaluate(&rules, alice());
    assert_eq!((outcome.notify, outcome.highlight, outcome.sound), (true, false, None));
}

#[test]
fn nobody_is_notified_of_their_own_events() {
    let mut event = message("cake");
    assert!(notifies(&keyword("cake"), &event));
    event["sender"] = json!("@alice:example.org");
    assert!(!notifies(&keyword("cake"), &event));
}

#[test]
fn a_display_name_is_no_pattern() {
    let rules = overriding(json!([{ "kind": "contains_display_name" }]));
    let named = |name, body| {
        let user = PushUser { display_name: name, ..alice() };
        let event =
            json!({ "type": "org.example", "sender": "@bob:example.org", "content": { "body": body } });
        evaluator(&event, room(10, None)).evaluate(&rules, user).notify
    };
    assert!(named("Alice", "hello ALICE!"));
    assert!(!named("Al", "hello alice"));
    assert!(!named("*", "hello alice"));
    assert!(!named("", "hello alice"));
    assert!(named("\u{c4}nne", "hallo \u{e4}nne"));
}

#[test]
fn any_notification_level_can_be_asked_for() {
    let rules = overriding(json!([{ "kind": "sender_notification_permission", "key": "org.example.all" }]));
    let event = json!({ "type": "org.example", "sender": "@bob:example.org", "content": {} });
    let notified = |sender, notifications: &[(&str, i64)]| {
        let notifications = notifications.iter().map(|(key, level)| ((*key).to_owned(), *level)).collect();
        let power_levels = Some(PushPowerLevels { sender, notifications });
        evaluator(&event, PushRoom { power_levels, ..room(10, None) }).evaluate(&rules, alice()).notify
    };
    assert!(notified(20, &[("org.example.all", 20)]));
    assert!(!notified(19, &[("org.example.all", 20)]));
    assert!(notified(i64::MAX, &[("org.example.all", 20)]));
    assert!(!notified(100, &[("room", 20)]), "what is not stated is not known");
}

#[test]
fn what_clients_can_make_costs_no_more_than_it_should() {
    let long = "ab ".repeat(20_000);
    let hostile = [
        "?".repeat(900_000),
        format!("{}x", "?".repeat(20_000)),
        format!("{}ab", "*a".repeat(20_000)),
        format!("{}y", "ab ".repeat(300)),
        String::from("a"),
    ];
    for pattern in hostile {
        assert!(!notifies(
            &keyword(&pattern),
            &json!({
                "type": "org.example", "sender": "@bob:example.org", "content": { "body": long },
            })
        ));
    }
    let nested = format!("{}{}", "{\"a\":".repeat(200), "1".to_owned() + &"}".repeat(200));
    assert!(PushEvaluator::new(nested.as_bytes(), room(2, None)).is_none());
    assert!(PushEvaluator::new(b"[]", room(2, None)).is_none());
}

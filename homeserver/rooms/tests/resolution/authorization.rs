//! The authorisation rules of room versions 1 to 12, written after their text, as far as made events need them.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::Value;

use crate::event::{Key, MadeEvent};

/// A state as the rules see it.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str, &str) -> Option<Arc<MadeEvent>>;

/// Who lets somebody into a restricted room.
pub(crate) const AUTHORISED_VIA: &str = "join_authorised_via_users_server";
/// With which key an invite was really signed. The rules say to verify signatures, and this knows without.
pub(crate) const TRULY_SIGNED_BY: &str = "example.truly_signed_by";

/// Greater than any power level that can be written.
const INFINITE: i64 = i64::MAX;

/// "Auth events selection" of the server-server API.
pub(crate) fn auth_keys(version: u8, event: &MadeEvent) -> Vec<Key> {
    if event.is("m.room.create") {
        return Vec::new();
    }
    let key = |event_type: &str, state_key: &str| (event_type.to_owned(), state_key.to_owned());
    let mut keys =
        BTreeSet::from([key("m.room.power_levels", ""), key("m.room.member", event.sender.as_str())]);
    if version < 12 {
        keys.insert(key("m.room.create", ""));
    }
    if event.is("m.room.member") {
        keys.insert(key("m.room.member", &event.state_key));
        if ["join", "invite", "knock"].contains(&event.text("membership")) {
            keys.insert(key("m.room.join_rules", ""));
        }
        if let Some(token) = signed(event).and_then(|signed| signed.get("token")?.as_str()) {
            keys.insert(key("m.room.third_party_invite", token));
        }
        if version >= 8
            && event.text("membership") == "join"
            && let Some(user) = event.content.get(AUTHORISED_VIA).and_then(Value::as_str)
        {
            keys.insert(key("m.room.member", user));
        }
    }
    keys.into_iter().collect()
}

/// What an identity server signed of an invite to an address.
fn signed(event: &MadeEvent) -> Option<&Value> {
    event.content.get("third_party_invite")?.get("signed")
}

/// A power level: an integer, or up to version 9 a text that is one.
pub(crate) fn level(version: u8, value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str().filter(|_| version < 10)?.parse().ok())
}

/// Those who made the room.
pub(crate) fn creators(version: u8, create: &MadeEvent) -> Vec<String> {
    let creator = if version < 11 { create.text("creator") } else { create.sender.as_str() };
    let additional = create.content.get("additional_creators").and_then(Value::as_array);
    let additional = additional.filter(|_| version >= 12).into_iter().flatten().filter_map(Value::as_str);
    std::iter::once(creator).chain(additional).map(str::to_owned).collect()
}

struct Powers {
    version: u8,
    creators: Vec<String>,
    content: Option<Value>,
}

impl Powers {
    fn new(version: u8, create: &MadeEvent, state: Lookup<'_>) -> Self {
        let content = state("m.room.power_levels", "").map(|event| event.content.clone());
        Self { version, creators: creators(version, create), content }
    }

    fn field(&self, name: &str, default: i64) -> i64 {
        let value = self.content.as_ref().and_then(|content| content.get(name));
        value.and_then(|value| level(self.version, value)).unwrap_or(default)
    }

    fn entry(&self, map: &str, name: &str) -> Option<i64> {
        level(self.version, self.content.as_ref()?.get(map)?.get(name)?)
    }

    fn of_user(&self, user: &str) -> i64 {
        let is_creator = self.creators.iter().any(|creator| creator == user);
        match (&self.content, is_creator) {
            (_, true) if self.version >= 12 => INFINITE,
            (None, true) => 100,
            (None, false) => 0,
            (Some(_), _) => self.entry("users", user).unwrap_or_else(|| self.field("users_default", 0)),
        }
    }

    fn required(&self, event: &MadeEvent) -> i64 {
        let of_type = self.entry("events", &event.event_type.to_string());
        of_type.unwrap_or_else(|| self.field("state_default", 50))
    }
}

fn membership(state: Lookup<'_>, user: &str) -> String {
    state("m.room.member", user)
        .map_or_else(|| "leave".to_owned(), |event| event.text("membership").to_owned())
}

/// "Authorization rules": those that depend on a state.
pub(crate) fn is_allowed(version: u8, event: &MadeEvent, state: Lookup<'_>) -> bool {
    if event.is("m.room.create") {
        return true;
    }
    let Some(create) = state("m.room.create", "") else { return false };
    let powers = Powers::new(version, &create, state);
    let sender = event.sender.as_str();
    if version < 6 && event.is("m.room.aliases") {
        return event.state_key == event.sender.server_name().as_str();
    }
    if event.is("m.room.member") {
        return match event.text("membership") {
            "join" => join_is_allowed(version, event, &create, &powers, state),
            "invite" if event.content.get("third_party_invite").is_some() => {
                invite_of_address_is_allowed(event, state)
            }
            "invite" => {
                membership(state, sender) == "join"
                    && !["join", "ban"].contains(&membership(state, &event.state_key).as_str())
                    && powers.of_user(sender) >= powers.field("invite", 0)
            }
            "leave" => leave_is_allowed(version, event, &powers, state),
            "ban" => {
                membership(state, sender) == "join"
                    && powers.of_user(sender) >= powers.field("ban", 50)
                    && powers.of_user(&event.state_key) < powers.of_user(sender)
            }
            "knock" => knock_is_allowed(version, event, state),
            _ => false,
        };
    }
    if membership(state, sender) != "join" {
        return false;
    }
    if event.is("m.room.third_party_invite") {
        return powers.of_user(sender) >= powers.field("invite", 0);
    }
    if powers.of_user(sender) < powers.required(event) {
        return false;
    }
    if event.state_key.starts_with('@') && event.state_key != sender {
        return false;
    }
    !event.is("m.room.power_levels") || power_levels_are_allowed(version, event, &powers)
}

fn join_is_allowed(
    version: u8,
    event: &MadeEvent,
    create: &MadeEvent,
    powers: &Powers,
    state: Lookup<'_>,
) -> bool {
    if event.prev_events == [create.event_id.clone()] && event.state_key == powers.creators[0] {
        return true;
    }
    let present = membership(state, &event.state_key);
    if event.sender != event.state_key || present == "ban" {
        return false;
    }
    // The spec has no word for rooms without join rules. Other servers take them for `invite`, `ruma` lets nobody join.
    let Some(join_rules) = state("m.room.join_rules", "") else { return false };
    let join_rule = join_rules.text("join_rule");
    let is_invited = ["invite", "join"].contains(&present.as_str());
    let takes_invites = join_rule == "invite" || (version >= 7 && join_rule == "knock");
    let is_restricted =
        (version >= 8 && join_rule == "restricted") || (version >= 10 && join_rule == "knock_restricted");
    if is_restricted && !is_invited {
        let via = event.text(AUTHORISED_VIA);
        return membership(state, via) == "join" && powers.of_user(via) >= powers.field("invite", 0);
    }
    join_rule == "public" || is_restricted || (takes_invites && is_invited)
}

/// Somebody whose address was invited has shown an identity server who they are.
fn invite_of_address_is_allowed(event: &MadeEvent, state: Lookup<'_>) -> bool {
    let Some(signed) = signed(event) else { return false };
    let text = |name: &str| signed.get(name).and_then(Value::as_str).unwrap_or_default();
    let Some(promise) = state("m.room.third_party_invite", text("token")) else { return false };
    membership(state, &event.state_key) != "ban"
        && text("mxid") == event.state_key
        && event.sender == promise.sender
        && event.text(TRULY_SIGNED_BY) == promise.text("public_key")
}

fn leave_is_allowed(version: u8, event: &MadeEvent, powers: &Powers, state: Lookup<'_>) -> bool {
    let (sender, target) = (event.sender.as_str(), event.state_key.as_str());
    let of_sender = membership(state, sender);
    if sender == target {
        let can_leave = ["invite", "join"].contains(&of_sender.as_str());
        return can_leave || (version >= 7 && of_sender == "knock");
    }
    let may_unban = powers.of_user(sender) >= powers.field("ban", 50);
    of_sender == "join"
        && (membership(state, target) != "ban" || may_unban)
        && powers.of_user(sender) >= powers.field("kick", 50)
        && powers.of_user(target) < powers.of_user(sender)
}

fn knock_is_allowed(version: u8, event: &MadeEvent, state: Lookup<'_>) -> bool {
    let join_rule = state("m.room.join_rules", "");
    let takes_knocks = |join_rule: &str| {
        (version >= 7 && join_rule == "knock") || (version >= 10 && join_rule == "knock_restricted")
    };
    join_rule.is_some_and(|event| takes_knocks(event.text("join_rule")))
        && event.sender == event.state_key
        && !["ban", "invite", "join"].contains(&membership(state, &event.state_key).as_str())
}

fn power_levels_are_allowed(version: u8, event: &MadeEvent, powers: &Powers) -> bool {
    let names = |content: &Value, map: &str| -> BTreeSet<String> {
        let map = content.get(map).and_then(Value::as_object);
        map.into_iter().flat_map(|map| map.keys().cloned()).collect()
    };
    if version >= 12 && powers.creators.iter().any(|creator| names(&event.content, "users").contains(creator))
    {
        return false;
    }
    let levels = |content: &Value| -> Vec<Value> {
        let fields = content.as_object().expect("it is an object").values();
        fields
            .flat_map(|value| {
                value.as_object().map_or(vec![value.clone()], |map| map.values().cloned().collect())
            })
            .collect()
    };
    if levels(&event.content).iter().any(|value| level(version, value).is_none()) {
        return false;
    }
    let Some(old) = &powers.content else { return true };
    let sender = powers.of_user(event.sender.as_str());
    let fields = [
        ("users_default", 0),
        ("events_default", 0),
        ("state_default", 50),
        ("ban", 50),
        ("redact", 50),
        ("kick", 50),
        ("invite", 0),
    ];
    for (field, default) in fields {
        let value = |content: &Value| content.get(field).and_then(|value| level(version, value));
        let (before, after) = (value(old), value(&event.content));
        if before != after && (before.unwrap_or(default) > sender || after.unwrap_or(default) > sender) {
            return false;
        }
    }
    for map in ["events", "users"] {
        for name in names(old, map).union(&names(&event.content, map)) {
            let value = |content: &Value| level(version, content.get(map)?.get(name)?);
            let (before, after) = (value(old), value(&event.content));
            if before == after {
                continue;
            }
            let equals_may = map == "events" || *name == event.sender;
            if before.is_some_and(|before| before > sender || (before == sender && !equals_may)) {
                return false;
            }
            if after.is_some_and(|after| after > sender) {
                return false;
            }
        }
    }
    true
}

//! What a user's push rules say of an event (C-S API, "Push Rules").
//!
//! The rules are ruma's types, their evaluation is ours: ruma's builds a regular expression for every pattern with a wildcard
//! and every user, which takes some 300 µs, and panics over patterns and events that clients can make.

mod patterns;

use std::{borrow::Cow, cell::Cell, collections::BTreeMap, ops::RangeBounds};

use ruma::{
    OwnedRoomId, UInt, UserId,
    power_levels::NotificationPowerLevelsKey,
    push::{Action, EventMatchConditionData, PushCondition, Ruleset, ScalarJsonValue, SoundTweakValue},
};
use serde_json::{Map, Value};

use self::patterns::Ends;

/// The property that is searched for words, where others are compared as a whole.
const BODY: &str = "content.body";
/// What `notifications.room` is where the power levels do not say it.
const DEFAULT_ROOM_LEVEL: i64 = 50;
/// Comparisons of characters that the patterns of one user may cost for one event; some 30 ms. Patterns that come behind do
/// not match. Only patterns that are nearly in the event cost any, so nobody's own keywords come that far.
const MOST_COMPARISONS: usize = 1 << 24;

/// What push rules ask about a room.
#[derive(Clone, Debug)]
pub struct PushRoom {
    /// The room.
    pub room_id: OwnedRoomId,
    /// How many users have joined.
    pub member_count: u64,
    /// `None`: not known, and no condition holds that asks for them.
    pub power_levels: Option<PushPowerLevels>,
}

/// What push rules ask about power in a room.
#[derive(Clone, Debug)]
pub struct PushPowerLevels {
    /// The level of the event's sender; [`i64::MAX`] for creators of rooms that give them more than any level.
    pub sender: i64,
    /// `notifications` in `m.room.power_levels`.
    pub notifications: BTreeMap<String, i64>,
}

/// Whose rules are asked.
#[derive(Clone, Copy, Debug)]
pub struct PushUser<'a> {
    /// The user.
    pub user_id: &'a UserId,
    /// The user's name in the room.
    pub display_name: &'a str,
}

/// What a user's rules say of an event.
#[derive(Clone, Copy, Debug, Default)]
pub struct PushOutcome<'a> {
    /// Whether it notifies the user.
    pub notify: bool,
    /// Whether it does with a highlight.
    pub highlight: bool,
    /// With which sound.
    pub sound: Option<&'a str>,
    /// The actions of the rule that matched, as gateways are told them.
    pub actions: &'a [Action],
}

/// An event about which the rules of users are asked, one user after the other.
#[derive(Clone, Debug)]
pub struct PushEvaluator {
    event: Map<String, Value>,
    lowered_body: Option<String>,
    room: PushRoom,
}

/// The rules of one user applied to one event.
struct Evaluation<'e> {
    event: &'e PushEvaluator,
    user: PushUser<'e>,
    comparisons_left: Cell<usize>,
}

impl PushEvaluator {
    /// Of an event as clients get it; `None` if that is no JSON object, or one that is nested too deeply to be read.
    pub fn new(event: &[u8], room: PushRoom) -> Option<Self> {
        let event: Map<String, Value> = serde_json::from_slice(event).ok()?;
        let lowered_body = property(&event, BODY).and_then(Value::as_str).map(str::to_lowercase);
        Some(Self { event, lowered_body, room })
    }

    /// What a user's rules say: the actions of the first rule that applies. Nobody is notified of their own events.
    pub fn evaluate<'r>(&self, rules: &'r Ruleset, user: PushUser<'_>) -> PushOutcome<'r> {
        if self.sender() == Some(user.user_id.as_str()) {
            return PushOutcome::default();
        }
        let evaluation = Evaluation { event: self, user, comparisons_left: Cell::new(MOST_COMPARISONS) };
        evaluation.actions(rules).map(PushOutcome::of).unwrap_or_default()
    }

    fn sender(&self) -> Option<&str> {
        self.event.get("sender").and_then(Value::as_str)
    }

    fn may_sender_notify(&self, key: &NotificationPowerLevelsKey) -> bool {
        let Some(levels) = &self.room.power_levels else { return false };
        let is_room = matches!(key, NotificationPowerLevelsKey::Room);
        let stated = levels.notifications.get(key.as_str()).copied();
        stated.or(is_room.then_some(DEFAULT_ROOM_LEVEL)).is_some_and(|needed| levels.sender >= needed)
    }
}

impl<'a> PushOutcome<'a> {
    fn of(actions: &'a [Action]) -> Self {
        let notify = actions.iter().any(Action::should_notify);
        Self {
            notify,
            highlight: notify && actions.iter().any(Action::is_highlight),
            sound: actions.iter().find_map(Action::sound).filter(|_| notify).map(SoundTweakValue::as_str),
            actions,
        }
    }
}

impl Evaluation<'_> {
    /// The kinds of rules in the order of their priorities. At most one rule of a room or of a sender can apply, so those are
    /// looked up.
    fn actions<'r>(&self, rules: &'r Ruleset) -> Option<&'r [Action]> {
        let overriding = rules.override_.iter().find(|rule| rule.enabled && self.all_hold(&rule.conditions));
        if let Some(rule) = overriding {
            return Some(&rule.actions);
        }
        if let Some(rule) = rules.content.iter().find(|rule| rule.enabled && self.is_in_body(&rule.pattern)) {
            return Some(&rule.actions);
        }
        if let Some(rule) = rules.room.get(self.event.room.room_id.as_str()).filter(|rule| rule.enabled) {
            return Some(&rule.actions);
        }
        let of_sender = self.event.sender().and_then(|sender| rules.sender.get(sender));
        if let Some(rule) = of_sender.filter(|rule| rule.enabled) {
            return Some(&rule.actions);
        }
        let last = rules.underride.iter().find(|rule| rule.enabled && self.all_hold(&rule.conditions));
        last.map(|rule| rule.actions.as_slice())
    }

    fn all_hold(&self, conditions: &[PushCondition]) -> bool {
        conditions.iter().all(|condition| self.holds(condition))
    }

    /// Conditions that are not known here do not hold.
    fn holds(&self, condition: &PushCondition) -> bool {
        let event = self.event;
        match condition {
            PushCondition::EventMatch(condition) => self.matches(condition),
            #[expect(deprecated, reason = "users may still have rules with it")]
            PushCondition::ContainsDisplayName => self.names_the_user(),
            PushCondition::RoomMemberCount(condition) => {
                condition.is.contains(&UInt::new_saturating(event.room.member_count))
            }
            PushCondition::SenderNotificationPermission(condition) => event.may_sender_notify(&condition.key),
            PushCondition::EventPropertyIs(condition) => {
                property(&event.event, &condition.key).is_some_and(|value| equals(value, &condition.value))
            }
            PushCondition::EventPropertyContains(condition) => {
                let values = property(&event.event, &condition.key).and_then(Value::as_array);
                values.is_some_and(|values| values.iter().any(|value| equals(value, &condition.value)))
            }
            _ => false,
        }
    }

    fn matches(&self, condition: &EventMatchConditionData) -> bool {
        let pattern = condition.pattern.as_str();
        match condition.key.as_str() {
            BODY => self.is_in_body(pattern),
            // Events that clients get by /sync do not say it.
            "room_id" => self.is_value(pattern, self.event.room.room_id.as_str()),
            key => property(&self.event.event, key)
                .and_then(Value::as_str)
                .is_some_and(|value| self.is_value(pattern, value)),
        }
    }

    fn is_value(&self, pattern: &str, value: &str) -> bool {
        if patterns::is_literal(pattern) && (pattern.is_ascii() || value.is_ascii()) {
            return pattern.eq_ignore_ascii_case(value);
        }
        self.finds(&pattern.to_lowercase(), &value.to_lowercase(), Ends::OfText)
    }

    fn is_in_body(&self, pattern: &str) -> bool {
        let Some(body) = &self.event.lowered_body else { return false };
        // Words cannot be nothing.
        if pattern.is_empty() {
            body.is_empty()
        } else {
            self.finds(&pattern.to_lowercase(), body, Ends::OfWords)
        }
    }

    /// A name is no pattern: whoever has an asterisk in theirs is not named by everything.
    fn names_the_user(&self) -> bool {
        let (Some(body), name) = (&self.event.lowered_body, self.user.display_name.to_lowercase()) else {
            return false;
        };
        !name.is_empty() && self.may_compare(&name, body) && patterns::contains_words(&name, body)
    }

    fn finds(&self, pattern: &str, text: &str, ends: Ends) -> bool {
        self.may_compare(pattern, text) && patterns::finds(pattern, text, ends)
    }

    /// Whether it is worth a comparison, which is then counted as the worst that it can be.
    fn may_compare(&self, pattern: &str, text: &str) -> bool {
        if !text.contains(patterns::longest_literal(pattern)) {
            return false;
        }
        let cost = pattern.len().saturating_mul(text.len());
        let left = self.comparisons_left.get().checked_sub(cost);
        self.comparisons_left.set(left.unwrap_or(0));
        left.is_some()
    }
}

fn equals(value: &Value, wanted: &ScalarJsonValue) -> bool {
    match wanted {
        ScalarJsonValue::Null => value.is_null(),
        ScalarJsonValue::Bool(wanted) => value.as_bool() == Some(*wanted),
        ScalarJsonValue::Integer(wanted) => value.as_i64() == Some(i64::from(*wanted)),
        ScalarJsonValue::String(wanted) => value.as_str() == Some(wanted),
    }
}

/// The property at a path (Appendices, "Dot-separated property paths").
fn property<'v>(event: &'v Map<String, Value>, path: &str) -> Option<&'v Value> {
    let (mut object, mut rest) = (event, path);
    loop {
        let (name, behind) = first_name(rest);
        let value = object.get(name.as_ref())?;
        let Some(behind) = behind else { return Some(value) };
        (object, rest) = (value.as_object()?, behind);
    }
}

/// The first name of a path without its escapes, and what stands behind the dot that ends it.
fn first_name(path: &str) -> (Cow<'_, str>, Option<&str>) {
    if !path.contains('\\') {
        return match path.split_once('.') {
            Some((name, behind)) => (name.into(), Some(behind)),
            None => (path.into(), None),
        };
    }
    let mut name = String::new();
    let mut chars = path.chars();
    while let Some(char) = chars.next() {
        match char {
            '.' => return (name.into(), Some(chars.as_str())),
            '\\' => {
                let mut ahead = chars.clone();
                match ahead.next() {
                    Some(escaped @ ('.' | '\\')) => {
                        name.push(escaped);
                        chars = ahead;
                    }
                    _ => name.push('\\'),
                }
            }
            other => name.push(other),
        }
    }
    (name.into(), None)
}

#[cfg(test)]
mod tests;

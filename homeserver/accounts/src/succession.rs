//! What a user keeps of a room when they follow it into the one that replaced it (C-S API, "Room Upgrades").

use entente_storage::{Bytes, LogPosition, Snapshot, Transaction, value::Stamped};
use ruma::{
    RoomId, UserId,
    push::{
        ConditionalPushRule, NewConditionalPushRule, NewPushRule, NewSimplePushRule, PushCondition, RuleKind,
        Ruleset,
    },
};
use serde_json::{Map, Value};

use crate::{
    AccountError, Accounts, Change,
    account_data::MOST_BYTES,
    push_rules::{self, MOST_RULES},
    rows,
};

impl Accounts {
    /// Gives a user in a new room what they had in the old one: its tags, its place among the direct chats, and its push rules. What
    /// they have in the new room already stays. Done again, it does nothing. Answers whether there was anything to do.
    pub async fn succeed_room(
        &self,
        user_id: &UserId,
        old: &RoomId,
        new: &RoomId,
    ) -> Result<bool, AccountError> {
        let localpart = self.local(user_id)?;
        let (acted, _) = self
            .store()
            .run(async |snapshot| {
                let mut copying = Copying { snapshot: &snapshot, localpart, transaction: Transaction::new() };
                let tags = copying.tags(old, new).await?;
                let direct = copying.direct_chats(old, new).await?;
                let rules = copying.rules(self, old, new).await?;
                Ok::<_, AccountError>((copying.transaction, tags || direct || rules))
            })
            .await?;
        Ok(acted)
    }
}

struct Copying<'a> {
    snapshot: &'a Snapshot,
    localpart: &'a str,
    transaction: Transaction,
}

impl Copying<'_> {
    async fn tags(&mut self, old: &RoomId, new: &RoomId) -> Result<bool, AccountError> {
        let of_old = self.row(old.as_str(), "m.tag").await?.filter(|row| !row.value.is_empty());
        let of_new = self.row(new.as_str(), "m.tag").await?;
        let Some(tags) = of_old.filter(|_| of_new.is_none()) else { return Ok(false) };
        self.put(new.as_str(), "m.tag", None, tags.value);
        Ok(true)
    }

    async fn direct_chats(&mut self, old: &RoomId, new: &RoomId) -> Result<bool, AccountError> {
        let Some(row) = self.row("", "m.direct").await? else { return Ok(false) };
        let Some(content) = with_successor(&row.value, old, new) else { return Ok(false) };
        self.put("", "m.direct", Some(&row), content);
        Ok(true)
    }

    async fn rules(&mut self, accounts: &Accounts, old: &RoomId, new: &RoomId) -> Result<bool, AccountError> {
        let Some(row) = self.row("", push_rules::EVENT_TYPE).await? else { return Ok(false) };
        let stored = Some(&row.value).filter(|content| !content.is_empty());
        let mut rules = accounts.parse_rules(self.localpart, stored)?;
        if !copy_rules(&mut rules, old, new) || rules.iter().count() > MOST_RULES {
            return Ok(false);
        }
        let content = push_rules::encode(&rules)?;
        if content.len() > push_rules::MOST_BYTES {
            return Ok(false);
        }
        self.put("", push_rules::EVENT_TYPE, Some(&row), content);
        Ok(true)
    }

    async fn row(&self, room_id: &str, event_type: &str) -> Result<Option<Stamped<Bytes>>, AccountError> {
        Ok(self.snapshot.get(&rows::ACCOUNT_DATA, (self.localpart, room_id, event_type)).await?)
    }

    fn put(&mut self, room_id: &str, event_type: &str, replaced: Option<&Stamped<Bytes>>, content: Bytes) {
        let key = (self.localpart, room_id, event_type);
        self.transaction.check_unchanged(&rows::ACCOUNT_DATA, key, replaced);
        let row = Stamped { position: LogPosition::AT_COMMIT, value: content };
        self.transaction.put(&rows::ACCOUNT_DATA, key, &row);
        let change = Change::AccountData {
            localpart: self.localpart.to_owned(),
            room_id: room_id.to_owned(),
            event_type: event_type.to_owned(),
        };
        change.log_in(&mut self.transaction);
    }
}

/// The content of `m.direct` with the new room beside the old one; `None`: there is nothing to change.
fn with_successor(content: &[u8], old: &RoomId, new: &RoomId) -> Option<Bytes> {
    let mut chats: Map<String, Value> = serde_json::from_slice(content).ok()?;
    let mut is_changed = false;
    for rooms in chats.values_mut().filter_map(Value::as_array_mut) {
        let has = |room_id: &RoomId| rooms.iter().any(|room| room.as_str() == Some(room_id.as_str()));
        if has(old) && !has(new) {
            rooms.push(Value::String(new.to_string()));
            is_changed = true;
        }
    }
    let content = Bytes::from(serde_json::to_vec(&chats).ok().filter(|_| is_changed)?);
    (content.len() <= MOST_BYTES).then_some(content)
}

/// Makes rules about the old room for the new one, too: rooms' own rules, and the overriding ones by which clients silence a room.
/// Answers whether there were any.
fn copy_rules(rules: &mut Ruleset, old: &RoomId, new: &RoomId) -> bool {
    let mut copied = Vec::new();
    if let Some(rule) = rules.room.get(old.as_str()).filter(|_| !rules.room.contains(new.as_str())) {
        let copy = NewSimplePushRule::new(new.to_owned(), rule.actions.clone());
        copied.push((RuleKind::Room, NewPushRule::Room(copy), rule.enabled));
    }
    if let Some(rule) = rules.override_.get(old.as_str()).filter(|_| !rules.override_.contains(new.as_str()))
    {
        copied.push((RuleKind::Override, NewPushRule::Override(for_room(rule, old, new)), rule.enabled));
    }
    let mut is_changed = false;
    for (kind, rule, enabled) in copied {
        let inserted = rules.insert(rule, None, None).is_ok();
        is_changed |= inserted && rules.set_enabled(kind, new.as_str(), enabled).is_ok();
    }
    is_changed
}

fn for_room(rule: &ConditionalPushRule, old: &RoomId, new: &RoomId) -> NewConditionalPushRule {
    let mut conditions = rule.conditions.clone();
    for condition in &mut conditions {
        if let PushCondition::EventMatch(matched) = condition
            && matched.key == "room_id"
            && matched.pattern == old.as_str()
        {
            matched.pattern = new.to_string();
        }
    }
    NewConditionalPushRule::new(new.to_string(), conditions, rule.actions.clone())
}

#[cfg(test)]
mod tests {
    use ruma::{room_id, user_id};
    use serde_json::json;

    use super::*;

    const OLD: &str = "!old:example.org";
    const NEW: &str = "!new:example.org";

    #[test]
    fn the_new_room_is_a_direct_chat_with_whom_the_old_one_was() {
        let (old, new) = (room_id!("!old:example.org"), room_id!("!new:example.org"));
        let content = json!({ "@a:x": [OLD, "!x:x"], "@b:x": ["!x:x"], "@c:x": [OLD, NEW], "odd": 3 });
        let changed = with_successor(content.to_string().as_bytes(), old, new).unwrap();
        let expected = json!({ "@a:x": [OLD, "!x:x", NEW], "@b:x": ["!x:x"], "@c:x": [OLD, NEW], "odd": 3 });
        assert_eq!(serde_json::from_slice::<Value>(&changed).unwrap(), expected);
        assert_eq!(with_successor(&changed, old, new), None, "done again, it does nothing");
        assert_eq!(with_successor(b"[]", old, new), None);
    }

    #[test]
    fn rules_of_the_room_are_copied_as_they_are() {
        let (old, new) = (room_id!("!old:example.org"), room_id!("!new:example.org"));
        let mut rules = Ruleset::server_default(user_id!("@a:example.org"));
        assert!(!copy_rules(&mut rules, old, new));
        let silence: NewConditionalPushRule = serde_json::from_value(json!({
            "rule_id": OLD, "actions": [],
            "conditions": [{ "kind": "event_match", "key": "room_id", "pattern": OLD }],
        }))
        .unwrap();
        rules.insert(NewPushRule::Override(silence), None, None).unwrap();
        rules
            .insert(NewPushRule::Room(NewSimplePushRule::new(old.to_owned(), Vec::new())), None, None)
            .unwrap();
        rules.set_enabled(RuleKind::Room, OLD, false).unwrap();
        assert!(copy_rules(&mut rules, old, new));
        assert!(!rules.room.get(NEW).unwrap().enabled);
        let copy = rules.override_.get(NEW).unwrap();
        let PushCondition::EventMatch(matched) = &copy.conditions[0] else { panic!("{copy:?}") };
        assert_eq!((matched.pattern.as_str(), copy.enabled), (NEW, true));
        assert!(!copy_rules(&mut rules, old, new));
    }
}

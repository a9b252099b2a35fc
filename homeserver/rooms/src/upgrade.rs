//! Upgrades of rooms to other versions (C-S API, "Room Upgrades").

use entente_storage::Transaction;
use parking_lot::Mutex;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::RoomIdFormatVersion,
};
use serde_json::json;

use crate::{
    Draft, Membership, NewRoom, Preset, Profile, RoomError, RoomView, Rooms,
    compose::{Composed, Composer},
    content::object,
    rows::{self, HeadRow},
    state::{Partition, StateRoot},
};

/// A room with more bans is not upgraded: all of them are copied at once.
const MOST_BANS: usize = 20_000;
/// Children of a space that are copied; the same goes for a room's other state, which is seldom more than one event of a type.
const MOST_COPIED: usize = 20_000;

/// What of a room's state goes into the one that replaces it. Power levels come last: until then its creator may do anything.
const COPIED: [&str; 11] = [
    "m.room.join_rules",
    "m.room.name",
    "m.room.topic",
    "m.room.avatar",
    "m.room.encryption",
    "m.room.history_visibility",
    "m.room.guest_access",
    "m.room.server_acl",
    "m.room.canonical_alias",
    "m.space.child",
    "m.space.parent",
];

/// An upgrade of a room (C-S API, `POST /rooms/{roomId}/upgrade`).
#[derive(Clone, Debug)]
pub struct RoomUpgrade {
    /// Who does it, and creates the new room by it.
    pub user_id: OwnedUserId,
    /// How that user appears in the new room.
    pub profile: Profile,
    /// The version of the new room.
    pub version: RoomVersionId,
    /// Who else has a creator's power, where the version has that.
    pub additional_creators: Vec<OwnedUserId>,
}

/// The room that replaces another, as it is to be written.
#[derive(Clone)]
struct Replacement {
    room_id: OwnedRoomId,
    number: u64,
    transaction: Transaction,
}

impl Rooms {
    /// Replaces a room by one of another version: the new room with the old one's settings, bans, aliases and place in the
    /// directory, and the tombstone in the old one, all in one transaction. Answers the new room.
    pub async fn upgrade_room(
        &self,
        room_id: &RoomId,
        upgrade: &RoomUpgrade,
    ) -> Result<OwnedRoomId, RoomError> {
        // A policy server is asked about a tombstone that names this very room: it is not made again unless the old one moves on.
        let made: Mutex<Option<(HeadRow, Replacement)>> = Mutex::new(None);
        self.change_room(room_id, async |mut composer| {
            composer.require_sender(&upgrade.user_id).await?;
            let powers = composer.view.powers().await?;
            if !powers.may_send(&upgrade.user_id, &TimelineEventType::RoomTombstone, Some("")) {
                return Err(RoomError::Forbidden("you may not upgrade this room"));
            }
            let known = made.lock().clone().filter(|(head, _)| *head == composer.head.row);
            let replacement = match known {
                Some((_, replacement)) => replacement,
                None => self.compose_replacement(&composer, upgrade).await?,
            };
            *made.lock() = Some((composer.head.row.clone(), replacement.clone()));
            let Replacement { room_id: new_id, number: new_number, transaction } = replacement;
            composer.transaction.append(transaction);
            let tombstone =
                object(json!({ "body": "This room has been replaced", "replacement_room": new_id }))?;
            composer.append(state(upgrade, StateEventType::RoomTombstone, tombstone)).await?;
            move_names(&mut composer, &new_id, new_number).await?;
            if powers.may_send(&upgrade.user_id, &TimelineEventType::RoomCanonicalAlias, Some("")) {
                clear_canonical_alias(&mut composer, upgrade).await?;
            }
            if powers.may_send(&upgrade.user_id, &TimelineEventType::RoomPowerLevels, Some("")) {
                quieten(&mut composer, upgrade).await?;
            }
            Ok((composer, new_id))
        })
        .await
    }

    async fn compose_replacement(
        &self,
        composer: &Composer,
        upgrade: &RoomUpgrade,
    ) -> Result<Replacement, RoomError> {
        let new = self.replacement(composer, upgrade).await?;
        let replacement = self.compose_room(&new, 0).await?;
        let room_id = replacement.view.room.room_id.clone();
        let number = replacement.view.room.number.0;
        let Some(Composed { transaction, .. }) = replacement.finish() else {
            return Err(RoomError::Internal(String::from("a room without events")));
        };
        Ok(Replacement { room_id, number, transaction })
    }

    /// What the new room begins with.
    async fn replacement(&self, composer: &Composer, upgrade: &RoomUpgrade) -> Result<NewRoom, RoomError> {
        let view = &composer.view;
        let rules = upgrade
            .version
            .rules()
            .ok_or_else(|| RoomError::UnsupportedRoomVersion(upgrade.version.to_string()))?;
        let state = composer.head.state();
        let mut new = NewRoom::new(upgrade.user_id.clone(), Preset::Private);
        new.profile = upgrade.profile.clone();
        new.version = Some(upgrade.version.clone());
        let create = view.state_event(state, "m.room.create", "").await?;
        new.creation_content = create.and_then(|event| event.content_as()).unwrap_or_default();
        for field in ["creator", "room_version", "additional_creators"] {
            new.creation_content.remove(field);
        }
        let mut predecessor = json!({ "room_id": view.room.room_id });
        if rules.room_id_format == RoomIdFormatVersion::V1 {
            predecessor["event_id"] =
                json!(composer.head.row.extremities.first().map(|event| &event.event_id));
        }
        new.creation_content
            .insert("predecessor".to_owned(), CanonicalJsonValue::Object(object(predecessor)?));
        if !upgrade.additional_creators.is_empty() {
            if !rules.authorization.additional_room_creators {
                return Err(RoomError::InvalidParameter(format!(
                    "rooms of version {} have no additional creators",
                    upgrade.version
                )));
            }
            let creators = upgrade.additional_creators.iter();
            let creators = creators.map(|creator| CanonicalJsonValue::String(creator.to_string())).collect();
            new.creation_content
                .insert("additional_creators".to_owned(), CanonicalJsonValue::Array(creators));
        }
        new.initial_state = copied_state(view, state, upgrade).await?;
        Ok(new)
    }
}

async fn copied_state(
    view: &RoomView,
    state: StateRoot,
    upgrade: &RoomUpgrade,
) -> Result<Vec<(StateEventType, String, CanonicalJsonObject)>, RoomError> {
    let settings = view.state_of(state, Partition::Settings).await?;
    let mut copied = Vec::new();
    let mut power_levels = None;
    for event in settings {
        let (Some(content), Some(state_key)) =
            (event.content_as::<CanonicalJsonObject>(), event.state_key.clone())
        else {
            continue;
        };
        let event_type = event.event_type.to_string();
        if event_type == "m.room.power_levels" && state_key.is_empty() {
            power_levels = Some(content);
        } else if COPIED.contains(&event_type.as_str()) && !content.is_empty() {
            copied.push((StateEventType::from(event_type), state_key, content));
        }
    }
    if copied.len() > MOST_COPIED {
        return Err(RoomError::TooLarge("this room has more state than can be copied in an upgrade"));
    }
    let members = view.state_of(state, Partition::Members).await?;
    let banned = members.iter().filter(|event| event.membership() == Some(Membership::Ban));
    let banned = banned.filter(|event| event.state_key.as_deref() != Some(upgrade.user_id.as_str()));
    for (count, event) in banned.enumerate() {
        if count >= MOST_BANS {
            return Err(RoomError::TooLarge("this room has more bans than can be copied in an upgrade"));
        }
        let mut content = event.content_as::<CanonicalJsonObject>().unwrap_or_default();
        content.retain(|name, _| name == "membership" || name == "reason");
        copied.push((StateEventType::RoomMember, event.state_key.clone().unwrap_or_default(), content));
    }
    if let Some(mut content) = power_levels {
        content.values_mut().for_each(with_integers);
        copied.push((StateEventType::RoomPowerLevels, String::new(), content));
    }
    Ok(copied)
}

/// Since room version 10 levels are integers; before, strings of digits were levels too.
fn with_integers(value: &mut CanonicalJsonValue) {
    match value {
        CanonicalJsonValue::Object(object) => object.values_mut().for_each(with_integers),
        CanonicalJsonValue::String(level) => {
            if let Some(level) = level.trim().parse::<i64>().ok().and_then(|level| level.try_into().ok()) {
                *value = CanonicalJsonValue::Integer(level);
            }
        }
        _ => {}
    }
}

fn state(upgrade: &RoomUpgrade, event_type: StateEventType, content: CanonicalJsonObject) -> Draft {
    Draft::state(&upgrade.user_id, event_type, "", content)
}

/// Gives the new room the old one's aliases and its place in the directory.
async fn move_names(composer: &mut Composer, new_id: &RoomId, new: u64) -> Result<(), RoomError> {
    let old = composer.view.room.number.0;
    let snapshot = &composer.view.snapshot;
    let aliases = snapshot.scan_all(rows::ROOM_ALIASES.scan((old,))).await?;
    let names = aliases.into_iter().map(|((_, alias), ())| alias).collect::<Vec<_>>();
    let found = snapshot.get_many(&rows::ALIASES, names.iter().map(String::as_str)).await?;
    let is_published = snapshot.get(&rows::PUBLISHED, old).await?;
    let transaction = &mut composer.transaction;
    for (alias, row) in names.iter().zip(found) {
        let Some(mut row) = row else { continue };
        transaction.check_unchanged(&rows::ALIASES, alias.as_str(), Some(&row));
        row.room_id = new_id.to_string();
        row.room = new;
        transaction.put(&rows::ALIASES, alias.as_str(), &row);
        transaction.delete(&rows::ROOM_ALIASES, (old, alias.as_str()));
        transaction.put(&rows::ROOM_ALIASES, (new, alias.as_str()), &());
    }
    if is_published.is_some() {
        transaction.check_present(&rows::PUBLISHED, old);
        transaction.delete(&rows::PUBLISHED, old);
        transaction.put(&rows::PUBLISHED, new, &());
    }
    Ok(())
}

/// The aliases lead to the new room now.
async fn clear_canonical_alias(composer: &mut Composer, upgrade: &RoomUpgrade) -> Result<(), RoomError> {
    let current = composer.current(&StateEventType::RoomCanonicalAlias, "").await?;
    let content = current.and_then(|event| event.content_as::<CanonicalJsonObject>()).unwrap_or_default();
    if !content.is_empty() {
        let emptied = CanonicalJsonObject::new();
        composer.append(state(upgrade, StateEventType::RoomCanonicalAlias, emptied)).await?;
    }
    Ok(())
}

/// Whoever has no particular power writes and invites in the new room from now on.
async fn quieten(composer: &mut Composer, upgrade: &RoomUpgrade) -> Result<(), RoomError> {
    let current = composer.current(&StateEventType::RoomPowerLevels, "").await?;
    let Some(mut content) = current.and_then(|event| event.content_as::<CanonicalJsonObject>()) else {
        return Ok(());
    };
    let before = content.clone();
    let restricted = level(&content, "users_default").saturating_add(1).max(50);
    for field in ["events_default", "invite"] {
        if level(&content, field) < restricted
            && let Ok(restricted) = restricted.try_into()
        {
            content.insert(field.to_owned(), CanonicalJsonValue::Integer(restricted));
        }
    }
    if content == before {
        return Ok(());
    }
    match composer.append(state(upgrade, StateEventType::RoomPowerLevels, content)).await {
        // Whoever may upgrade a room may not always change these levels. The room is replaced all the same.
        Ok(_) | Err(RoomError::Unauthorized(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

fn level(content: &CanonicalJsonObject, field: &str) -> i64 {
    match content.get(field) {
        Some(CanonicalJsonValue::Integer(level)) => (*level).into(),
        Some(CanonicalJsonValue::String(level)) => level.trim().parse().unwrap_or(0),
        _ => 0,
    }
}

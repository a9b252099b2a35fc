use std::sync::Arc;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomAliasId, RoomId,
    RoomVersionId,
    events::StateEventType,
    room_version_rules::{RoomIdFormatVersion, RoomVersionRules},
};
use serde_json::json;

use crate::{
    Draft, Profile, Room, RoomError, RoomNumber, RoomView, Rooms,
    compose::{Composer, room_id_of_create},
    content::object,
    room::Head,
    rows::{self, AliasRow, HeadRow, RoomRow},
};

/// A room whose id is taken is given up after so many attempts.
const MOST_ATTEMPTS: u64 = 20;

/// What a room begins with (C-S API, `POST /createRoom`).
#[derive(Clone, Debug)]
pub struct NewRoom {
    /// Who makes it.
    pub creator: OwnedUserId,
    /// How the creator appears in it.
    pub profile: Profile,
    /// Its version; `None`: the default.
    pub version: Option<RoomVersionId>,
    /// What the defaults are.
    pub preset: Preset,
    /// More for the content of `m.room.create`.
    pub creation_content: CanonicalJsonObject,
    /// State events, by type and state key.
    pub initial_state: Vec<(StateEventType, String, CanonicalJsonObject)>,
    /// Fields that replace those of the default power levels.
    pub power_levels: CanonicalJsonObject,
    /// Its name.
    pub name: Option<String>,
    /// Its topic.
    pub topic: Option<String>,
    /// Its first alias.
    pub alias: Option<OwnedRoomAliasId>,
    /// Whom to invite, and how they appear.
    pub invite: Vec<(OwnedUserId, Profile)>,
    /// Whether the invites say that this is a direct chat.
    pub is_direct: bool,
    /// Whether it goes into the public directory.
    pub published: bool,
}

/// What a room's settings are unless its creator says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// `private_chat`
    Private,
    /// `trusted_private_chat`: those who are invited at the start have the creator's power.
    TrustedPrivate,
    /// `public_chat`
    Public,
}

impl NewRoom {
    /// A room with nothing but its creator and the defaults of a preset.
    pub fn new(creator: OwnedUserId, preset: Preset) -> Self {
        Self {
            creator,
            profile: Profile::default(),
            version: None,
            preset,
            creation_content: CanonicalJsonObject::new(),
            initial_state: Vec::new(),
            power_levels: CanonicalJsonObject::new(),
            name: None,
            topic: None,
            alias: None,
            invite: Vec::new(),
            is_direct: false,
            published: false,
        }
    }

    fn has_initial(&self, event_type: &StateEventType) -> bool {
        self.initial_state.iter().any(|(initial, state_key, _)| initial == event_type && state_key.is_empty())
    }
}

impl Rooms {
    /// Makes a room: all its first events in one transaction, or none.
    pub async fn create_room(&self, new: NewRoom) -> Result<OwnedRoomId, RoomError> {
        if let Some((stranger, _)) = new.invite.iter().find(|(invitee, _)| self.localpart(invitee).is_none())
        {
            return Err(RoomError::InvalidParameter(format!(
                "{stranger} is on another server, and users of other servers cannot be invited yet"
            )));
        }
        let mut attempt = 0;
        let (room, composed) = loop {
            let composer = self.compose_room(&new, attempt).await?;
            let room = Arc::clone(&composer.view.room);
            let Some(mut composed) = composer.finish() else {
                return Err(RoomError::Internal(String::from("a room without events")));
            };
            match self.store().commit(std::mem::take(&mut composed.transaction)).await {
                Ok(_) => break (room, composed),
                Err(error) if error.is_conflict() && attempt < MOST_ATTEMPTS => {
                    self.require_free(new.alias.as_deref()).await?;
                    // Since room version 12 two rooms that one user makes alike in the same millisecond are the same.
                    attempt += 1;
                }
                Err(error) => return Err(error.into()),
            }
        };
        *room.head.lock().await = Some(composed.head);
        let room_id = room.room_id.clone();
        self.inner.rooms_by_number.insert(room.number, Arc::clone(&room));
        self.inner.rooms_by_id.insert(room_id.clone(), room);
        Ok(room_id)
    }

    /// Refuses an alias that leads somewhere already.
    async fn require_free(&self, alias: Option<&RoomAliasId>) -> Result<(), RoomError> {
        let Some(alias) = alias else { return Ok(()) };
        let snapshot = self.store().snapshot().await?;
        match snapshot.get(&rows::ALIASES, alias.as_str()).await? {
            Some(_) => Err(RoomError::AliasTaken(alias.to_owned())),
            None => Ok(()),
        }
    }

    /// Composes the first events of a room. It begins `later` milliseconds from now.
    pub(crate) async fn compose_room(&self, new: &NewRoom, later: u64) -> Result<Composer, RoomError> {
        let version = new.version.clone().unwrap_or_else(|| self.settings().default_room_version.clone());
        let mut composer = self.compose_creation(new, &version, later).await?;
        let in_words = |error| match error {
            RoomError::Unauthorized(reason) | RoomError::BadEvent(reason) => {
                RoomError::InvalidRoomState(reason)
            }
            other => other,
        };
        for draft in first_state(new, &composer.view.room.rules)? {
            composer.append(draft).await.map_err(in_words)?;
        }
        for (invitee, profile) in &new.invite {
            let mut content = profile.member_content("invite", None);
            if new.is_direct {
                content.insert(String::from("is_direct"), CanonicalJsonValue::Bool(true));
            }
            let draft = Draft::state(&new.creator, StateEventType::RoomMember, invitee.as_str(), content);
            composer.append(draft).await.map_err(in_words)?;
        }
        composer.put_room();
        let (number, room_id) = (composer.view.room.number.0, composer.view.room.room_id.clone());
        let transaction = &mut composer.transaction;
        if let Some(alias) = &new.alias {
            let row =
                AliasRow { room_id: room_id.to_string(), room: number, creator: new.creator.to_string() };
            transaction.check_absent(&rows::ALIASES, alias.as_str());
            transaction.put(&rows::ALIASES, alias.as_str(), &row);
            transaction.put(&rows::ROOM_ALIASES, (number, alias.as_str()), &());
        }
        if new.published {
            transaction.put(&rows::PUBLISHED, number, &());
        }
        Ok(composer)
    }

    /// Begins a room with its create event, from which its id comes since room version 12.
    async fn compose_creation(
        &self,
        new: &NewRoom,
        version: &RoomVersionId,
        later: u64,
    ) -> Result<Composer, RoomError> {
        let randomness = self.inner.environment.randomness();
        let number = RoomNumber(u64::from_be_bytes(randomness.bytes()));
        let id = format!("!{}:{}", randomness.alphanumeric(18), self.server_name());
        let id = RoomId::parse(id).map_err(|error| RoomError::Internal(error.to_string()))?;
        let room = Room::new(number, id, version.clone())?;
        let names_room = room.rules.room_id_format == RoomIdFormatVersion::V2;
        let content = create_content(new, version, &room.rules);
        let redactions = self.redactions();
        let snapshot = self.store().snapshot().await?;
        let view = RoomView::new(self.clone(), snapshot, Arc::new(room), redactions);
        let mut composer = Composer::of_new_room(view, Head::new(HeadRow::default()));
        let mut draft = Draft::state(&new.creator, StateEventType::RoomCreate, "", content);
        draft.origin_server_ts = Some(self.inner.environment.now().millis().saturating_add(later));
        let create = composer.append(draft).await.map_err(|error| match error {
            RoomError::Unauthorized(reason) => RoomError::InvalidRoomState(reason),
            other => other,
        })?;
        if names_room {
            let room = Room::new(number, room_id_of_create(&create.event_id)?, version.clone())?;
            composer.view.room = Arc::new(room);
        }
        Ok(composer)
    }
}

impl Composer {
    /// Writes what never changes about a new room.
    pub(crate) fn put_room(&mut self) {
        let room = &self.view.room;
        let row = RoomRow { room_id: room.room_id.to_string(), version: room.version.to_string() };
        let (number, room_id) = (room.number.0, room.room_id.as_str());
        let transaction = &mut self.transaction;
        transaction.check_absent(&rows::ROOMS, number);
        transaction.put(&rows::ROOMS, number, &row);
        transaction.check_absent(&rows::ROOM_IDS, room_id);
        transaction.put(&rows::ROOM_IDS, room_id, &number);
    }
}

/// The state events of a new room behind its create event, invites aside, in the order of the spec.
fn first_state(new: &NewRoom, rules: &RoomVersionRules) -> Result<Vec<Draft>, RoomError> {
    let creator = &new.creator;
    let state = |event_type: StateEventType, content| Draft::state(creator, event_type, "", content);
    let mut drafts = vec![Draft::state(
        creator,
        StateEventType::RoomMember,
        creator.as_str(),
        new.profile.member_content("join", None),
    )];
    if !new.has_initial(&StateEventType::RoomPowerLevels) {
        drafts.push(state(StateEventType::RoomPowerLevels, power_levels(new, rules)));
    }
    if let Some(alias) = &new.alias
        && !new.has_initial(&StateEventType::RoomCanonicalAlias)
    {
        let content = object(json!({ "alias": alias }))?;
        drafts.push(state(StateEventType::RoomCanonicalAlias, content));
    }
    let (join_rule, guest_access) = match new.preset {
        Preset::Public => ("public", "forbidden"),
        Preset::Private | Preset::TrustedPrivate => ("invite", "can_join"),
    };
    let presets = [
        (StateEventType::RoomJoinRules, json!({ "join_rule": join_rule })),
        (StateEventType::RoomHistoryVisibility, json!({ "history_visibility": "shared" })),
        (StateEventType::RoomGuestAccess, json!({ "guest_access": guest_access })),
    ];
    for (event_type, content) in presets {
        if !new.has_initial(&event_type) {
            drafts.push(state(event_type, object(content)?));
        }
    }
    for (event_type, state_key, content) in &new.initial_state {
        let content = match event_type {
            StateEventType::RoomPowerLevels => without_creators(content.clone(), new, rules),
            _ => content.clone(),
        };
        drafts.push(Draft::state(creator, event_type.clone(), state_key.clone(), content));
    }
    if let Some(name) = &new.name {
        drafts.push(state(StateEventType::RoomName, object(json!({ "name": name }))?));
    }
    if let Some(topic) = &new.topic {
        let content = json!({ "topic": topic, "m.topic": { "m.text": [{ "body": topic }] } });
        drafts.push(state(StateEventType::RoomTopic, object(content)?));
    }
    Ok(drafts)
}

fn create_content(new: &NewRoom, version: &RoomVersionId, rules: &RoomVersionRules) -> CanonicalJsonObject {
    let mut content = new.creation_content.clone();
    content.insert(String::from("room_version"), CanonicalJsonValue::String(version.to_string()));
    if rules.authorization.use_room_create_sender {
        content.remove("creator");
    } else {
        content.insert(String::from("creator"), CanonicalJsonValue::String(new.creator.to_string()));
    }
    if rules.authorization.additional_room_creators && new.preset == Preset::TrustedPrivate {
        let creators = content.remove("additional_creators");
        let mut creators = match creators {
            Some(CanonicalJsonValue::Array(creators)) => creators,
            _ => Vec::new(),
        };
        for (invitee, _) in &new.invite {
            let invitee = CanonicalJsonValue::String(invitee.to_string());
            if !creators.contains(&invitee) {
                creators.push(invitee);
            }
        }
        if !creators.is_empty() {
            content.insert(String::from("additional_creators"), CanonicalJsonValue::Array(creators));
        }
    }
    content
}

/// The default power levels, with the creator's own fields in their place.
fn power_levels(new: &NewRoom, rules: &RoomVersionRules) -> CanonicalJsonObject {
    let privileged = rules.authorization.explicitly_privilege_room_creators;
    let mut users = serde_json::Map::new();
    if !privileged {
        users.insert(new.creator.to_string(), json!(100));
        if new.preset == Preset::TrustedPrivate {
            users.extend(new.invite.iter().map(|(invitee, _)| (invitee.to_string(), json!(100))));
        }
    }
    let tombstone = if privileged { 150 } else { 100 };
    let invite = if new.preset == Preset::Public { 50 } else { 0 };
    let defaults = json!({
        "users": users,
        "users_default": 0,
        "events": {
            "m.room.name": 50,
            "m.room.power_levels": 100,
            "m.room.history_visibility": 100,
            "m.room.canonical_alias": 50,
            "m.room.avatar": 50,
            "m.room.tombstone": tombstone,
            "m.room.server_acl": 100,
            "m.room.encryption": 100,
            // Everybody may say that they are in a call (MSC3401, MSC4143).
            "org.matrix.msc3401.call.member": 0,
        },
        "events_default": 0,
        "state_default": 50,
        "ban": 50,
        "kick": 50,
        "redact": 50,
        "invite": invite,
    });
    let mut content = object(defaults).unwrap_or_default();
    content.extend(new.power_levels.clone());
    without_creators(content, new, rules)
}

/// Since version 12 creators stand above the power levels and must not be named in them; clients that name them mean no harm.
fn without_creators(
    mut content: CanonicalJsonObject,
    new: &NewRoom,
    rules: &RoomVersionRules,
) -> CanonicalJsonObject {
    if rules.authorization.explicitly_privilege_room_creators
        && let Some(CanonicalJsonValue::Object(users)) = content.get_mut("users")
    {
        users.remove(new.creator.as_str());
        if new.preset == Preset::TrustedPrivate {
            users.retain(|user_id, _| new.invite.iter().all(|(invitee, _)| invitee.as_str() != user_id));
        }
        if let Some(CanonicalJsonValue::Array(creators)) = new.creation_content.get("additional_creators") {
            users.retain(|user_id, _| creators.iter().all(|creator| creator.as_str() != Some(user_id)));
        }
    }
    content
}

//! What users are to be told of while they are not looking: what their push rules say of an event, how much they have not read, and what
//! notified them lately.

use std::{collections::BTreeMap, time::Duration};

use entente_accounts::{PushEvaluator, PushPowerLevels, PushRoom, PushUser};
use entente_rooms::{Event, Membership, Reader, RoomNumber, RoomView, Seen, Shape, TimelinePlace};
use memchr::memmem;
use ruma::{
    OwnedRoomId, UserId, api::client::filter::FilterDefinition, events::room::power_levels::UserPowerLevel,
    push::Action,
};
use serde::Deserialize;

use crate::{
    StateMode, Sync, SyncError, SyncRequest,
    response::Making,
    summary::heroes,
    unread::{may_concern, may_notify, unread},
};

/// Rooms that are looked through for what notified a user, those with the newest events first.
const MOST_ROOMS: usize = 200;
/// Events of each that are looked at.
const MOST_EVENTS: usize = 100;

/// What a user's rules say of an event that notifies them.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// Whom.
    pub localpart: String,
    /// Whether with a highlight.
    pub highlight: bool,
    /// With which sound.
    pub sound: Option<String>,
}

/// An event that notified a user (C-S API, `GET /notifications`).
#[derive(Clone, Debug)]
pub struct Notification {
    /// In which room.
    pub room_id: OwnedRoomId,
    /// The event as clients get it: JSON.
    pub event: Vec<u8>,
    /// When it was sent: ms since 1970.
    pub at: u64,
    /// The actions of the rule that matched.
    pub actions: Vec<Action>,
    /// Whether the user has read it.
    pub read: bool,
}

/// What a room is called and by whom an event was sent, for people who read it on a locked screen.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// The room's name, or that of the people in it.
    pub room: Option<String>,
    /// The room's main alias.
    pub alias: Option<String>,
    /// The sender's name in the room.
    pub sender: Option<String>,
}

impl Sync {
    /// What the rules of users say of an event that they see; those whom it does not notify are left out. The event is read once for all of them.
    pub async fn judge(
        &self,
        view: &RoomView,
        event: &Event,
        localparts: &[String],
    ) -> Result<Vec<Judgement>, SyncError> {
        let Some(evaluator) = PushEvaluator::new(event.json(), push_room(view, event).await?) else {
            return Ok(Vec::new());
        };
        let snapshot = self.inner.store.snapshot().await?;
        let accounts = &self.inner.accounts;
        let mut judgements = Vec::new();
        for localpart in localparts {
            let user_id = accounts.user_id(localpart)?;
            let ignored = accounts.ignored_users(&snapshot, localpart).await?;
            if !may_concern(event, &user_id) || ignored.iter().any(|ignored| event.sender == ignored.as_str())
            {
                continue;
            }
            let rules = accounts.push_rules(&snapshot, localpart).await?;
            let display_name = display_name(view, &user_id).await?;
            let outcome =
                evaluator.evaluate(&rules, PushUser { user_id: &user_id, display_name: &display_name });
            if outcome.notify {
                judgements.push(Judgement {
                    localpart: localpart.clone(),
                    highlight: outcome.highlight,
                    sound: outcome.sound.map(str::to_owned),
                });
            }
        }
        Ok(judgements)
    }

    /// How many events a user has not read in some rooms that they are in, or in all.
    pub async fn unread_in(
        &self,
        user_id: &UserId,
        rooms: Option<&[RoomNumber]>,
    ) -> Result<BTreeMap<RoomNumber, u64>, SyncError> {
        let request = as_request(user_id);
        let making = self.making(&request).await?;
        let mut counts = BTreeMap::new();
        for room in making.user_rooms().await?.iter() {
            let is_asked = rooms.is_none_or(|rooms| rooms.contains(&room.number));
            if room.membership == Membership::Join && is_asked {
                let view = making.view(room.number).await?;
                counts.insert(room.number, unread(&making, &view).await?.all().notify);
            }
        }
        Ok(counts)
    }

    /// What notified a user before a time (ms since 1970), the newest first, at most `limit`.
    pub async fn notifications(
        &self,
        user_id: &UserId,
        before: u64,
        limit: usize,
        only_highlights: bool,
    ) -> Result<Vec<Notification>, SyncError> {
        let request = as_request(user_id);
        let mut making = self.making(&request).await?;
        making.find_ignored().await?;
        let mut newest = Vec::new();
        for room in making.user_rooms().await?.iter().filter(|room| room.membership == Membership::Join) {
            let view = making.view(room.number).await?;
            let end = TimelinePlace(view.next_event().await?);
            let last = view.newest_before(end, 1).await?.pop();
            newest.push((last.map_or(0, |event| event.origin_server_ts), view, end));
        }
        newest.sort_by_key(|(at, ..)| std::cmp::Reverse(*at));
        let mut found = Vec::new();
        for (_, view, end) in newest.into_iter().take(MOST_ROOMS) {
            let events = view.newest_before(end, MOST_EVENTS).await?;
            let events = events.into_iter().filter(|event| event.origin_server_ts < before).collect();
            for seen in view.seen_by(user_id, events).await? {
                found.extend(self.notification(&making, &view, seen, only_highlights).await?);
            }
        }
        found.sort_by_key(|notification: &Notification| std::cmp::Reverse(notification.at));
        found.truncate(limit);
        Ok(found)
    }

    async fn notification(
        &self,
        making: &Making<'_>,
        view: &RoomView,
        seen: Seen,
        only_highlights: bool,
    ) -> Result<Option<Notification>, SyncError> {
        let user_id = &making.request.user_id;
        let event = &seen.event;
        let is_ignored = making.ignored.iter().any(|ignored| event.sender == ignored.as_str());
        if is_ignored || !may_notify(event, user_id) {
            return Ok(None);
        }
        let Some(evaluator) = PushEvaluator::new(event.json(), push_room(view, event).await?) else {
            return Ok(None);
        };
        let rules = self.inner.accounts.push_rules(&making.snapshot, user_id.localpart()).await?;
        let display_name = display_name(view, user_id).await?;
        let outcome = evaluator.evaluate(&rules, PushUser { user_id, display_name: &display_name });
        if !outcome.notify || (only_highlights && !outcome.highlight) {
            return Ok(None);
        }
        let root = view.thread_of(event).await?;
        let read = view.read_up_to(user_id).await?.in_thread(root.as_deref().map(ruma::EventId::as_str));
        let reader = Reader { user_id, device_id: "" };
        let (at, number, actions) = (event.origin_server_ts, event.number, outcome.actions.to_vec());
        let json = view.client_events(reader, &[seen], Shape::WithoutRoom).await?.pop();
        let room_id = view.room.room_id.clone();
        Ok(json.map(|event| Notification { room_id, event, at, actions, read: read >= Some(number) }))
    }

    /// How people call a room, and the sender of an event.
    pub async fn names(&self, view: &RoomView, event: &Event, reader: &UserId) -> Result<Names, SyncError> {
        #[derive(Deserialize)]
        struct Content {
            name: Option<String>,
            alias: Option<String>,
        }
        let keys = [("m.room.name", ""), ("m.room.canonical_alias", "")];
        let events = view.state_events(view.current_state().await?, &keys).await?;
        let contents =
            events.iter().map(|event| event.as_ref().and_then(|event| event.content_as::<Content>()));
        let [name, alias] = contents.collect::<Vec<_>>().try_into().unwrap_or([None, None]);
        let full = |text: Option<String>| text.filter(|text| !text.is_empty());
        let (name, alias) =
            (full(name.and_then(|name| name.name)), full(alias.and_then(|alias| alias.alias)));
        let room = match name.or_else(|| alias.clone()) {
            Some(name) => Some(name),
            None => self.names_of_people(view, reader).await?,
        };
        let sender = view.member_profile(&event.sender).await?.and_then(|profile| profile.displayname);
        Ok(Names { room, alias, sender })
    }

    async fn names_of_people(&self, view: &RoomView, reader: &UserId) -> Result<Option<String>, SyncError> {
        let mut names = Vec::new();
        for hero in heroes(view, reader).await? {
            let Ok(user_id) = UserId::parse(&hero) else { continue };
            let profile = view.member_profile(&user_id).await?;
            names.push(profile.and_then(|profile| profile.displayname).unwrap_or(hero));
        }
        Ok((!names.is_empty()).then(|| names.join(", ")))
    }

    async fn making<'a>(&'a self, request: &'a SyncRequest) -> Result<Making<'a>, SyncError> {
        let redactions = self.inner.rooms.redactions();
        let snapshot = self.inner.store.snapshot().await?;
        let position = snapshot.position().await?;
        self.inner.news.reached(&position).await?;
        Ok(Making::new(self, request, snapshot, position, redactions))
    }
}

/// A request of nobody's device, for what is the same on all of them.
fn as_request(user_id: &UserId) -> SyncRequest {
    SyncRequest {
        user_id: user_id.to_owned(),
        device_id: "".into(),
        since: None,
        timeout: Duration::ZERO,
        full_state: false,
        state_mode: StateMode::After,
        filter: FilterDefinition::default().into(),
    }
}

pub(crate) async fn display_name(view: &RoomView, user_id: &UserId) -> Result<String, SyncError> {
    let name = view.member_profile(user_id).await?.and_then(|profile| profile.displayname);
    Ok(name.unwrap_or_else(|| user_id.localpart().to_owned()))
}

/// What push rules ask about the room of an event. Only mentions of the whole room ask who may make them.
pub(crate) async fn push_room(view: &RoomView, event: &Event) -> Result<PushRoom, SyncError> {
    let (member_count, _) = view.member_counts().await?;
    let power_levels =
        if mentions_room(event.json()) { Some(power_levels(view, &event.sender).await?) } else { None };
    Ok(PushRoom { room_id: view.room.room_id.clone(), member_count, power_levels })
}

fn mentions_room(json: &[u8]) -> bool {
    memmem::find(json, b"room\":true").is_some() || memmem::find(json, b"@room").is_some()
}

async fn power_levels(view: &RoomView, sender: &UserId) -> Result<PushPowerLevels, SyncError> {
    #[derive(Default, Deserialize)]
    struct Content {
        #[serde(default)]
        notifications: BTreeMap<String, serde_json::Value>,
    }
    let state = view.current_state().await?;
    let event = view.state_event(state, "m.room.power_levels", "").await?;
    let content: Content = event.and_then(|event| event.content_as()).unwrap_or_default();
    let levels = content.notifications.into_iter();
    let notifications = levels.filter_map(|(key, level)| Some((key, level.as_i64()?))).collect();
    let sender = match view.powers().await?.of(sender) {
        UserPowerLevel::Int(level) => i64::from(level),
        _ => i64::MAX,
    };
    Ok(PushPowerLevels { sender, notifications })
}

//! What users are to be told of while they are not looking: what their push rules say of an event, how much they have not read, and what
//! notified them lately.

use std::{
    collections::{BTreeMap, BinaryHeap, VecDeque},
    fmt,
    sync::Arc,
    time::Duration,
};

use entente_accounts::{PushEvaluator, PushPowerLevels, PushRoom, PushUser};
use entente_rooms::{
    Event, Membership, Reader, RoomNumber, RoomView, Shape, TimelinePlace, state::EventNumber,
};
use memchr::memmem;
use ruma::{
    EventId, OwnedRoomId, UserId,
    events::room::power_levels::UserPowerLevel,
    push::{Action, Ruleset},
};
use serde::Deserialize;

use crate::{
    StateMode, Sync, SyncError, SyncRequest,
    response::Making,
    summary::heroes,
    unread::{Counted, may_concern, may_notify, unread},
};

/// Rooms that are looked through for what notified a user, those with the newest events first.
const MOST_ROOMS: usize = 200;
/// Events of each that are looked at.
const MOST_EVENTS: usize = 100;
/// Events of a room that are read at once.
const EVENTS_AT_ONCE: usize = 20;
/// Events for which rules are asked for one page, which may then be shorter than it was asked for.
const MOST_JUDGED: usize = 1_000;

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

/// How far a user has come with what notified them: everything behind this place comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NotificationToken {
    /// When the event was sent (ms since 1970), or one after it in its room, if that says an earlier time.
    at: u64,
    room: u64,
    number: i64,
}

impl NotificationToken {
    /// Reads what `Display` wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix('n')?.split('_');
        let token = Self {
            at: parts.next()?.parse().ok()?,
            room: parts.next()?.parse().ok()?,
            number: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(token)
    }
}

impl fmt::Display for NotificationToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "n{}_{}_{}", self.at, self.room, self.number)
    }
}

/// A room that is gone through for what notified a user, from its newest event backwards.
struct Walk {
    view: RoomView,
    /// Before what was read of it.
    place: TimelinePlace,
    read: usize,
    /// The newest first.
    events: VecDeque<Arc<Event>>,
    /// The earliest time that an event said so far: later ones in the room do not come before it.
    at: u64,
    /// What does not change from event to event.
    user: Option<(String, Arc<Counted>)>,
}

impl Walk {
    async fn begin(view: RoomView) -> Result<Self, SyncError> {
        let place = TimelinePlace(view.next_event().await?);
        Ok(Self { view, place, read: 0, events: VecDeque::new(), at: u64::MAX, user: None })
    }

    /// The place of the next event. `None`: the room is through.
    async fn next_place(&mut self) -> Result<Option<NotificationToken>, SyncError> {
        if self.events.is_empty() && self.read < MOST_EVENTS {
            let page = self.view.newest_before(self.place, EVENTS_AT_ONCE).await?;
            self.read += EVENTS_AT_ONCE;
            self.place = page.first().map_or(self.place, |oldest| TimelinePlace(oldest.number));
            self.events.extend(page.into_iter().rev());
        }
        let room = self.view.room.number.0;
        Ok(self.events.front().map(|event| NotificationToken {
            at: event.origin_server_ts.min(self.at),
            room,
            number: event.number.0,
        }))
    }

    fn take(&mut self) -> Option<Arc<Event>> {
        let event = self.events.pop_front()?;
        self.at = self.at.min(event.origin_server_ts);
        Some(event)
    }
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

    /// How many events a user has not read in all rooms that they are in, or in one of them.
    pub async fn unread_in(
        &self,
        user_id: &UserId,
        only: Option<RoomNumber>,
    ) -> Result<BTreeMap<RoomNumber, u64>, SyncError> {
        let _place = self.inner.at_once.acquire().await.map_err(|_| SyncError::closed())?;
        let request = as_request(user_id);
        let making = self.making(&request).await?;
        let mut counts = BTreeMap::new();
        for room in making.user_rooms().await?.iter() {
            let is_asked = only.is_none_or(|only| only == room.number);
            if room.membership == Membership::Join && is_asked {
                let view = making.view(room.number).await?;
                counts.insert(room.number, unread(&making, &view).await?.all().notify);
            }
        }
        Ok(counts)
    }

    /// Whether a user has read an event of a room: by a receipt, or by saying something after it.
    pub async fn has_read(
        &self,
        user_id: &UserId,
        room: RoomNumber,
        number: EventNumber,
    ) -> Result<bool, SyncError> {
        let _place = self.inner.at_once.acquire().await.map_err(|_| SyncError::closed())?;
        let request = as_request(user_id);
        let making = self.making(&request).await?;
        let view = making.view(room).await?;
        let Some(event) = view.event(number).await? else { return Ok(false) };
        let root = view.thread_of(&event).await?;
        Ok(unread(&making, &view).await?.is_read(root.as_deref().map(EventId::as_str), number))
    }

    /// What notified a user, the newest first, at most `limit`, behind what a page before this one ended with. Answers with what the
    /// next one begins, if there may be more.
    pub async fn notifications(
        &self,
        user_id: &UserId,
        from: Option<NotificationToken>,
        limit: usize,
        only_highlights: bool,
    ) -> Result<(Vec<Notification>, Option<NotificationToken>), SyncError> {
        let _place = self.inner.at_once.acquire().await.map_err(|_| SyncError::closed())?;
        let request = as_request(user_id);
        let mut making = self.making(&request).await?;
        making.find_ignored().await?;
        let rules = self.inner.accounts.push_rules(&making.snapshot, user_id.localpart()).await?;
        let mut rooms = Vec::new();
        for room in making.user_rooms().await?.iter().filter(|room| room.membership == Membership::Join) {
            let view = making.view(room.number).await?;
            let last = view.newest_before(TimelinePlace(view.next_event().await?), 1).await?.pop();
            rooms.extend(last.map(|event| (event.origin_server_ts, room.number)));
        }
        rooms.sort_unstable_by_key(|place| std::cmp::Reverse(*place));
        let mut walks = BTreeMap::new();
        let mut next_places = BinaryHeap::new();
        for (_, room) in rooms.into_iter().take(MOST_ROOMS) {
            let mut walk = Walk::begin(making.view(room).await?).await?;
            next_places.extend(walk.next_place().await?);
            walks.insert(room.0, walk);
        }
        let (mut found, mut judged, mut reached) = (Vec::new(), 0, None);
        while let Some(place) = next_places.pop() {
            if found.len() == limit || judged == MOST_JUDGED {
                return Ok((found, reached));
            }
            let Some(walk) = walks.get_mut(&place.room) else { continue };
            let event = walk.take();
            if let Some(event) = event
                && from.is_none_or(|from| place < from)
            {
                judged += 1;
                reached = Some(place);
                found.extend(self.notification(&making, walk, event, &rules, only_highlights).await?);
            }
            next_places.extend(walk.next_place().await?);
        }
        Ok((found, None))
    }

    async fn notification(
        &self,
        making: &Making<'_>,
        walk: &mut Walk,
        event: Arc<Event>,
        rules: &Ruleset,
        only_highlights: bool,
    ) -> Result<Option<Notification>, SyncError> {
        let user_id = &making.request.user_id;
        let is_ignored = making.ignored.iter().any(|ignored| event.sender == ignored.as_str());
        if is_ignored || !may_notify(&event, user_id) {
            return Ok(None);
        }
        let Some(seen) = walk.view.seen_by(user_id, vec![event]).await?.pop() else { return Ok(None) };
        let (view, event) = (&walk.view, &seen.event);
        let Some(evaluator) = PushEvaluator::new(event.json(), push_room(view, event).await?) else {
            return Ok(None);
        };
        if walk.user.is_none() {
            walk.user = Some((display_name(view, user_id).await?, unread(making, view).await?));
        }
        let Some((display_name, counted)) = &walk.user else { return Ok(None) };
        let outcome = evaluator.evaluate(rules, PushUser { user_id, display_name });
        if !outcome.notify || (only_highlights && !outcome.highlight) {
            return Ok(None);
        }
        let root = view.thread_of(event).await?;
        let read = counted.is_read(root.as_deref().map(EventId::as_str), event.number);
        let reader = Reader { user_id, device_id: "" };
        let (at, actions) = (event.origin_server_ts, outcome.actions.to_vec());
        let json = view.client_events(reader, &[seen], Shape::WithoutRoom).await?.pop();
        let room_id = view.room.room_id.clone();
        Ok(json.map(|event| Notification { room_id, event, at, actions, read }))
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
        filter: Arc::default(),
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

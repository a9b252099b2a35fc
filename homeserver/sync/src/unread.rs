//! How much in a room a user has not read: what their push rules say of every event since their receipts, counted once.

use std::{collections::BTreeMap, sync::Arc};

use entente_accounts::{PushEvaluator, PushUser};
use entente_rooms::{Direction, Event, ReadMarkers, RoomView, TimelinePlace, state::EventNumber};
use ruma::{EventId, UserId, events::TimelineEventType, push::Ruleset};
use serde::Serialize;

use crate::{
    SyncError,
    notifying::{display_name, push_room},
    response::Making,
};

/// Events behind a receipt are counted up to this many; what lies further back is not.
const MOST_COUNTED: usize = 20_000;
/// Events that are read at once.
const PAGE: usize = 200;

/// How many unread events there are in a room or in a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Counts {
    #[serde(rename = "notification_count")]
    pub(crate) notify: u64,
    #[serde(rename = "highlight_count")]
    pub(crate) highlight: u64,
}

/// What was counted for a user in a room so far.
#[derive(Clone, Debug)]
pub(crate) struct Counted {
    markers: ReadMarkers,
    /// The event by which the user came in.
    joined_at: EventNumber,
    up_to: EventNumber,
    main: Counts,
    threads: BTreeMap<String, Counts>,
    /// What the user said last, as far as was counted: in no thread, and in threads.
    said: ReadMarkers,
}

impl Counts {
    fn add(&mut self, outcome: Self) {
        self.notify += outcome.notify;
        self.highlight += outcome.highlight;
    }
}

impl Counted {
    /// Of what is in no thread, and of each thread.
    pub(crate) fn by_thread(&self) -> (Counts, &BTreeMap<String, Counts>) {
        (self.main, &self.threads)
    }

    /// Of everything together.
    pub(crate) fn all(&self) -> Counts {
        let mut all = self.main;
        self.threads.values().for_each(|counts| all.add(*counts));
        all
    }

    /// Whether an event of a thread, or of none, was read: by a receipt, or by saying something after it.
    pub(crate) fn is_read(&self, root: Option<&str>, number: EventNumber) -> bool {
        self.markers.in_thread(root).max(self.said.in_thread(root)) >= Some(number)
    }

    /// The user said something: what came before it was read (C-S API, "Receiving notifications").
    fn say(&mut self, root: Option<String>, number: EventNumber) {
        match root {
            None => {
                self.main = Counts::default();
                self.said.main = Some(number);
            }
            Some(root) => {
                self.threads.remove(&root);
                self.said.threads.insert(root, number);
            }
        }
    }
}

/// What a user has not read of a room.
pub(crate) async fn unread(making: &Making<'_>, view: &RoomView) -> Result<Arc<Counted>, SyncError> {
    let user_id = &making.request.user_id;
    let markers = view.read_up_to(user_id).await?;
    let joined_at = view.joined_by(user_id).await?.unwrap_or(EventNumber(i64::MAX));
    let end = view.next_event().await?;
    let cache = &making.sync.inner.counted;
    let key = (user_id.localpart().to_owned(), view.room.number);
    let known = cache
        .get(&key)
        .filter(|known| known.markers == markers && known.joined_at == joined_at && known.up_to <= end);
    if let Some(known) = &known
        && known.up_to == end
    {
        return Ok(Arc::clone(known));
    }
    let mut counted = match known {
        Some(known) => (*known).clone(),
        None => fresh(markers, joined_at, end),
    };
    count(making, view, &mut counted, end).await?;
    let counted = Arc::new(counted);
    cache.insert(key, Arc::clone(&counted));
    Ok(counted)
}

fn fresh(markers: ReadMarkers, joined_at: EventNumber, end: EventNumber) -> Counted {
    // Nothing before the oldest thing that can be unread: what was read in the whole room, or the user's coming.
    let read = markers.unthreaded.map_or(joined_at, |read| read.max(joined_at));
    let cap = end.0.saturating_sub(i64::try_from(MOST_COUNTED).unwrap_or(i64::MAX));
    let up_to = EventNumber(read.0.saturating_add(1).max(cap).min(end.0));
    Counted {
        markers,
        joined_at,
        up_to,
        main: Counts::default(),
        threads: BTreeMap::new(),
        said: ReadMarkers::default(),
    }
}

/// Counts what lies behind what was counted already.
async fn count(
    making: &Making<'_>,
    view: &RoomView,
    counted: &mut Counted,
    end: EventNumber,
) -> Result<(), SyncError> {
    let mut rules = None;
    while counted.up_to < end {
        let missing = usize::try_from(end.0 - counted.up_to.0).unwrap_or(PAGE);
        let events = if missing <= PAGE {
            view.newest_before(TimelinePlace(end), missing).await?
        } else {
            view.stored_timeline(TimelinePlace(counted.up_to), None, Direction::Forward, PAGE).await?
        };
        let Some(last) = events.last() else { break };
        counted.up_to = EventNumber(last.number.0.saturating_add(1));
        for event in &events {
            if event.sender == making.request.user_id && marks_as_read(event) {
                let root = view.thread_of(event).await?;
                counted.say(root.map(|root| root.to_string()), event.number);
                continue;
            }
            if !may_notify(event, &making.request.user_id) {
                continue;
            }
            let root = view.thread_of(event).await?;
            if counted.markers.in_thread(root.as_deref().map(EventId::as_str)) >= Some(event.number) {
                continue;
            }
            if rules.is_none() {
                rules = Some(Rules::read(making, view).await?);
            }
            let Some(rules) = &rules else { continue };
            let outcome = rules.evaluate(view, event, &making.request.user_id).await?;
            match root {
                None => counted.main.add(outcome),
                Some(_) if outcome == Counts::default() => {}
                Some(root) => counted.threads.entry(root.to_string()).or_default().add(outcome),
            }
        }
    }
    counted.up_to = end;
    Ok(())
}

/// Whether whoever sent an event has read what came before it. State changes without anybody looking at the room, and delayed events
/// are sent when their senders are gone.
pub fn marks_as_read(event: &Event) -> bool {
    event.is_shown() && event.state_key.is_none() && event.delay_id_of(&event.sender).is_none()
}

/// Whether an event is one for which anybody's rules are asked.
pub(crate) fn may_notify(event: &Event, user_id: &UserId) -> bool {
    event.is_shown() && may_concern(event, user_id)
}

/// Whether an event is one for which this user's rules are asked, if they see it.
pub(crate) fn may_concern(event: &Event, user_id: &UserId) -> bool {
    event.sender != user_id
        && event.redacted_by().is_none()
        && event.event_type != TimelineEventType::RoomRedaction
}

/// A user's rules, and what they ask about the user.
struct Rules {
    ruleset: Arc<Ruleset>,
    display_name: String,
}

impl Rules {
    async fn read(making: &Making<'_>, view: &RoomView) -> Result<Self, SyncError> {
        let user_id = &making.request.user_id;
        let ruleset = making.sync.inner.accounts.push_rules(&making.snapshot, user_id.localpart()).await?;
        Ok(Self { ruleset, display_name: display_name(view, user_id).await? })
    }

    async fn evaluate(&self, view: &RoomView, event: &Event, user_id: &UserId) -> Result<Counts, SyncError> {
        let room = push_room(view, event).await?;
        let Some(evaluator) = PushEvaluator::new(event.json(), room) else { return Ok(Counts::default()) };
        let user = PushUser { user_id, display_name: &self.display_name };
        let outcome = evaluator.evaluate(&self.ruleset, user);
        Ok(Counts { notify: u64::from(outcome.notify), highlight: u64::from(outcome.highlight) })
    }
}

use std::{collections::HashMap, sync::Arc};

use ruma::{UserId, events::TimelineEventType};
use serde::Deserialize;

use crate::{
    Event, Membership, RoomError, RoomView,
    rows::{FIRST_NUMBER, MemberRow},
    state::{self, EventNumber, StateKeyId, StateRoot},
};

/// An event that a reader may see.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The event.
    pub event: Arc<Event>,
    /// The reader's membership at the event (`unsigned.membership`).
    pub membership: Membership,
}

/// `m.room.history_visibility`, from the most open to the most closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum HistoryVisibility {
    WorldReadable,
    Shared,
    Invited,
    Joined,
}

impl HistoryVisibility {
    /// What an event of the type says; rooms without one are `shared`.
    pub(crate) fn of(event: Option<&Event>) -> Self {
        #[derive(Deserialize)]
        struct Content<'a> {
            #[serde(borrow)]
            history_visibility: &'a str,
        }
        match event.and_then(Event::content_as::<Content<'_>>).map(|content| content.history_visibility) {
            Some("world_readable") => Self::WorldReadable,
            Some("invited") => Self::Invited,
            Some("joined") => Self::Joined,
            _ => Self::Shared,
        }
    }
}

/// What decides about a reader at one state of a room.
#[derive(Clone, Copy)]
struct AtState {
    visibility: HistoryVisibility,
    membership: Option<Membership>,
}

/// Finds what decides about a reader at the states of a room; each state is looked at once.
struct Past<'a> {
    view: &'a RoomView,
    visibility_key: Option<StateKeyId>,
    member_key: Option<StateKeyId>,
    known: HashMap<StateRoot, AtState>,
}

impl Past<'_> {
    async fn at(&mut self, root: StateRoot) -> Result<AtState, RoomError> {
        if let Some(known) = self.known.get(&root) {
            return Ok(*known);
        }
        let keys: Vec<StateKeyId> = [self.visibility_key, self.member_key].into_iter().flatten().collect();
        let reader = self.view.rooms.inner.states.reader(&self.view.snapshot, self.view.room.number);
        let mut numbers = state::get_many(&reader, root, &keys).await?.into_iter();
        let mut next = |key: Option<StateKeyId>| key.and_then(|_| numbers.next().flatten());
        let (visibility, member) = (next(self.visibility_key), next(self.member_key));
        let visibility = self.event(visibility).await?;
        let member = self.event(member).await?;
        let at = AtState {
            visibility: HistoryVisibility::of(visibility.as_deref()),
            membership: member.as_deref().and_then(Event::membership),
        };
        self.known.insert(root, at);
        Ok(at)
    }

    async fn event(&self, number: Option<EventNumber>) -> Result<Option<Arc<Event>>, RoomError> {
        match number {
            Some(number) => self.view.event(number).await,
            None => Ok(None),
        }
    }
}

impl RoomView {
    /// Those of the events that a user may see (C-S API, "Room History Visibility"), each decided at that event.
    pub async fn seen_by(&self, reader: &UserId, events: Vec<Arc<Event>>) -> Result<Vec<Seen>, RoomError> {
        let present = self.member_row(reader).await?;
        let is_joined = present.as_ref().is_some_and(|row| row.membership == Membership::Join);
        let mut past: Option<Past<'_>> = None;
        let mut seen = Vec::with_capacity(events.len());
        for event in events.into_iter().filter(|event| event.is_shown()) {
            let has_joined = present.as_ref().is_some_and(|row| {
                let joined_here = row.event >= FIRST_NUMBER && event.number.0 >= row.event;
                row.membership == Membership::Join && joined_here
            });
            if has_joined {
                seen.push(Seen { event, membership: Membership::Join });
                continue;
            }
            if past.is_none() {
                let keys = [("m.room.history_visibility", ""), ("m.room.member", reader.as_str())];
                let mut ids = self.state_key_ids(&keys).await?;
                let (member_key, visibility_key) = (ids.pop().flatten(), ids.pop().flatten());
                past = Some(Past { view: self, visibility_key, member_key, known: HashMap::new() });
            }
            let Some(past) = past.as_mut() else { continue };
            let mut at = past.at(event.state_after()).await?;
            if event.event_type == TimelineEventType::RoomHistoryVisibility {
                // Who may see it before or after the change may see the change.
                at.visibility = at.visibility.min(past.at(event.state_before()).await?.visibility);
            }
            let is_own = event.event_type == TimelineEventType::RoomMember
                && event.state_key.as_deref() == Some(reader.as_str());
            // Whoever is in the room may see what is sticky, as they may see its state (MSC4354).
            let is_sticky = is_joined && event.sticky_for(self.now()).is_some();
            if is_own || is_sticky || may_see(at, event.number, present.as_ref()) {
                seen.push(Seen { event, membership: at.membership.unwrap_or(Membership::Leave) });
            }
        }
        Ok(seen)
    }

    /// Those of the events that a user may see.
    pub async fn visible(
        &self,
        reader: &UserId,
        events: Vec<Arc<Event>>,
    ) -> Result<Vec<Arc<Event>>, RoomError> {
        let seen = self.seen_by(reader, events).await?;
        Ok(seen.into_iter().map(|seen| seen.event).collect())
    }

    /// The event of this room with this id, if a user may see it.
    pub async fn visible_event(&self, reader: &UserId, event_id: &ruma::EventId) -> Result<Seen, RoomError> {
        let event = self.event_by_id(event_id).await?.ok_or(RoomError::EventNotFound)?;
        self.seen_by(reader, vec![event]).await?.pop().ok_or(RoomError::EventNotFound)
    }

    /// Which state of the room a user may read: the present one of who is in it, or when everybody may read it; that of
    /// their leaving, of who was.
    pub async fn readable_state(&self, reader: &UserId) -> Result<StateRoot, RoomError> {
        let state = self.current_state().await?;
        let refused = RoomError::Forbidden("you are not in this room, and may not see it");
        match self.member_row(reader).await? {
            Some(MemberRow { membership: Membership::Join, .. }) => Ok(state),
            row => {
                let visibility = self.state_event(state, "m.room.history_visibility", "").await?;
                if HistoryVisibility::of(visibility.as_deref()) == HistoryVisibility::WorldReadable {
                    return Ok(state);
                }
                let left = match row {
                    Some(MemberRow { membership: Membership::Leave | Membership::Ban, event, .. }) => {
                        self.event(EventNumber(event)).await?
                    }
                    _ => return Err(refused),
                };
                let left = left.ok_or(refused)?;
                let before = self.state_event(left.state_before(), "m.room.member", reader.as_str()).await?;
                match before.as_deref().and_then(Event::membership) {
                    Some(Membership::Join) => Ok(left.state_after()),
                    _ => Err(RoomError::Forbidden("you were not in this room")),
                }
            }
        }
    }

    /// Refuses those who may see nothing of the room's timeline.
    pub async fn require_reader(&self, reader: &UserId) -> Result<(), RoomError> {
        self.readable_state(reader).await.map(drop)
    }
}

fn may_see(at: AtState, number: EventNumber, present: Option<&MemberRow>) -> bool {
    if at.visibility == HistoryVisibility::WorldReadable || at.membership == Some(Membership::Join) {
        return true;
    }
    // Whether the user came in after the event.
    let came_later = match present {
        Some(row) if row.membership == Membership::Join => true,
        Some(row) if matches!(row.membership, Membership::Leave | Membership::Ban) => number.0 < row.event,
        _ => false,
    };
    match at.visibility {
        HistoryVisibility::WorldReadable => true,
        HistoryVisibility::Shared => came_later,
        HistoryVisibility::Invited => at.membership == Some(Membership::Invite) && came_later,
        HistoryVisibility::Joined => false,
    }
}

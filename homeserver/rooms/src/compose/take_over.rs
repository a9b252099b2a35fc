//! A room that comes from another server: its state at one event, with what authorises it.

use std::{collections::HashMap, sync::Arc};

use entente_storage::LogPosition;
use ruma::{
    EventId, OwnedEventId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::RoomIdFormatVersion,
};

use super::{Composer, receive::check_by_auth_events, room_id_of_create};
use crate::{
    Event, RoomError,
    incoming::{JoinedRoom, ToldState, VerifiedPdu},
    rows::{EventHeader, Extremity, FIRST_NUMBER, GapRow, SEGMENT, StoredEvent},
    state::{self, EventNumber, StateKeyId, StateRoot},
};

/// Outliers are numbered from here upwards.
const FIRST_OUTLIER: i64 = 2 * FIRST_NUMBER;
/// Gaps of one room that can be filled. Of more the oldest stay as they are.
const MOST_GAPS: usize = 50;

impl Composer {
    /// Puts the room where it stands behind a join, whatever was known of it.
    pub(crate) async fn take_over(&mut self, joined: &JoinedRoom) -> Result<(), RoomError> {
        self.add_outliers(&joined.told, Some(&joined.event.event_id)).await?;
        let state = self.state_of_events(&joined.told.state).await?;
        let before = self.head.state();
        let number = self.number_behind_gap(&joined.event).await?;
        let header = EventHeader {
            event_id: joined.event.event_id.to_string(),
            state_before: state.encode(),
            ..EventHeader::default()
        };
        let position = LogPosition::AT_COMMIT;
        let mut stored = StoredEvent { position, header, json: joined.event.json.clone() };
        let event = Event::new(self.view.room.number, number, stored.clone())?;
        self.check_room(&event)?;
        let (auth_events, missing) = self.find_all(&joined.event.auth_events).await?;
        if !missing.is_empty() {
            return Err(RoomError::BadEvent(String::from("events are missing that authorise the join")));
        }
        let rules = self.view.room.rules.authorization.clone();
        self.authorisation_of(&event, state).await?.check(&rules, &event)?;
        let after = self.with_event(state, &event).await?;
        stored.header.state_after = Some(after.encode());
        if before != StateRoot::EMPTY {
            stored.header.room_before = Some(before.encode());
            stored.header.room_after = Some(after.encode());
        }
        self.assign_chain(EventNumber(number), &event, &auth_events).await?;
        self.put_rows(&event, &stored)?;
        let event = Arc::new(Event::new(self.view.room.number, number, stored)?);
        self.keep(&event);
        self.head.row.extremities =
            vec![Extremity { event_id: event.event_id.to_string(), number, depth: event.depth }];
        self.head.row.state = after.encode();
        self.head.current.clear();
        self.note_received(&event, before, after).await
    }

    /// The number of an event by which this server comes into a room. If it was there before, there is a gap between what it heard then
    /// and this, unless everything before the event is known.
    async fn number_behind_gap(&mut self, join: &VerifiedPdu) -> Result<i64, RoomError> {
        let next = self.head.row.next_event;
        let (known, missing) = self.find_all(&join.prev_events).await?;
        if next == 0 || missing.is_empty() && known.iter().all(|event| !event.is_outlier()) {
            return Ok(next);
        }
        let behind = next
            .checked_add(SEGMENT)
            .map(|next| next - next.rem_euclid(SEGMENT))
            .ok_or(RoomError::TooLarge("this room has more gaps than it can have"))?;
        let gaps = &mut self.head.row.gaps;
        if gaps.len() >= MOST_GAPS {
            gaps.remove(0);
        }
        gaps.push(GapRow { behind, first: behind });
        Ok(behind)
    }

    /// Stores what is known only because other events are authorised by it, each behind what authorises it.
    pub(crate) async fn add_outliers(
        &mut self,
        told: &ToldState,
        except: Option<&EventId>,
    ) -> Result<(), RoomError> {
        let mut waiting: HashMap<OwnedEventId, &VerifiedPdu> = HashMap::new();
        for pdu in &told.events {
            if except != Some(&*pdu.event_id) && self.find(&pdu.event_id).await?.is_none() {
                waiting.insert(pdu.event_id.clone(), pdu);
            }
        }
        let mut create = self.find_create(told).await?;
        loop {
            let ready: Vec<OwnedEventId> = waiting
                .values()
                .filter(|pdu| pdu.auth_events.iter().all(|id| !waiting.contains_key(id)))
                .map(|pdu| pdu.event_id.clone())
                .collect();
            if ready.is_empty() {
                break;
            }
            for event_id in ready {
                let Some(pdu) = waiting.remove(&event_id) else { continue };
                let added = self.add_outlier(pdu, create.as_ref()).await?;
                create = added.filter(|added| added.event_type == TimelineEventType::RoomCreate).or(create);
            }
        }
        if waiting.is_empty() {
            Ok(())
        } else {
            Err(RoomError::BadEvent(String::from("events authorise each other in a circle")))
        }
    }

    /// The create event, which since room version 12 authorises without being named, so that it has to come first.
    async fn find_create(&mut self, told: &ToldState) -> Result<Option<Arc<Event>>, RoomError> {
        let names_room = self.view.room.rules.room_id_format == RoomIdFormatVersion::V2;
        if !names_room {
            return Ok(None);
        }
        if let Some(create) = self.current(&StateEventType::RoomCreate, "").await? {
            return Ok(Some(create));
        }
        let mut events = told.events.iter();
        let create = events.find(|pdu| pdu.event_type == "m.room.create");
        let create =
            create.ok_or_else(|| RoomError::BadEvent(String::from("the room has no create event")))?;
        if room_id_of_create(&create.event_id)? != self.view.room.room_id {
            return Err(RoomError::BadEvent(String::from("the create event is another room's")));
        }
        match self.find(&create.event_id).await? {
            Some(known) => Ok(Some(known)),
            None => self.add_outlier(create, None).await,
        }
    }

    /// One whose authority is not known is left out: it is not known to be forbidden either.
    async fn add_outlier(
        &mut self,
        pdu: &VerifiedPdu,
        create: Option<&Arc<Event>>,
    ) -> Result<Option<Arc<Event>>, RoomError> {
        if let Some(known) = self.find(&pdu.event_id).await? {
            return Ok(Some(known));
        }
        let (auth_events, missing) = self.find_all(&pdu.auth_events).await?;
        if !missing.is_empty() {
            return Ok(None);
        }
        let number = self.next_outlier();
        let mut header =
            EventHeader { event_id: pdu.event_id.to_string(), outlier: true, ..EventHeader::default() };
        let probe =
            StoredEvent { position: LogPosition::AT_COMMIT, header: header.clone(), json: pdu.json.clone() };
        let event = Event::new(self.view.room.number, number, probe)?;
        self.check_room(&event)?;
        let rules = &self.view.room.rules.authorization;
        let by_name = auth_events.iter().find(|event| event.event_type == TimelineEventType::RoomCreate);
        let is_allowed = auth_events.iter().all(|event| !event.is_rejected())
            && check_by_auth_events(rules, &event, &auth_events, by_name.or(create)).is_ok();
        header.rejected = !is_allowed;
        let stored = StoredEvent { position: LogPosition::AT_COMMIT, header, json: pdu.json.clone() };
        let event = Arc::new(Event::new(self.view.room.number, number, stored.clone())?);
        if is_allowed && event.state_key.is_some() {
            self.assign_chain(EventNumber(number), &event, &auth_events).await?;
        }
        self.put_outlier(&event, &stored);
        self.keep(&event);
        Ok(Some(event))
    }

    /// The number of the next event without a place in the timeline.
    pub(super) fn next_outlier(&mut self) -> i64 {
        let outliers = i64::try_from(self.head.row.outliers).unwrap_or(i64::MAX);
        self.head.row.outliers += 1;
        FIRST_OUTLIER.saturating_add(outliers)
    }

    /// The state that these events are.
    pub(super) async fn state_of_events(&mut self, ids: &[OwnedEventId]) -> Result<StateRoot, RoomError> {
        let mut changes: Vec<(StateKeyId, Option<EventNumber>)> = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(event) = self.find(id).await? else { continue };
            let Some(state_key) = event.state_key.clone().filter(|_| !event.is_rejected()) else { continue };
            let id = self.state_key_id(&event.event_type, &state_key).await?;
            changes.push((id, Some(event.state_number())));
        }
        let updated = state::update(&self.nodes(), StateRoot::EMPTY, &changes).await?;
        self.nodes.extend(updated.nodes);
        let create = (StateEventType::RoomCreate.to_string(), "");
        if self.stored_state(updated.root, &[create]).await?.pop().flatten().is_none() {
            return Err(RoomError::BadEvent(String::from("the room's state has no create event")));
        }
        Ok(updated.root)
    }
}

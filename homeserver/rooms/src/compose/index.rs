//! The rows that depend on what kind of event is added: memberships, relations, redactions.

use std::sync::Arc;

use ruma::{
    CanonicalJsonObject, EventId, UserId, canonical_json::redact_in_place, events::StateEventType,
    state_res::events::RoomPowerLevelsIntField,
};
use serde::Deserialize;

use super::Composer;
use crate::{
    Event, Membership, RoomError,
    powers::Powers,
    relations::Relation,
    rows::{self, AggregateRow, EventHeader, FIRST_NUMBER, MemberRow, RelationRow, StoredEvent, UserRoomRow},
    state::EventNumber,
};

/// Names and avatars are kept in the index up to this length; a longer one is left out there.
const MOST_PROFILE_BYTES: usize = 1_024;
/// References to one event that are counted.
const MOST_REFERENCES: usize = 100;

impl Composer {
    pub(super) async fn note_membership(
        &mut self,
        event: &Event,
        replaced: Option<&Event>,
        membership: Membership,
        user_id: &str,
    ) -> Result<(), RoomError> {
        #[derive(Deserialize)]
        struct Content {
            displayname: Option<String>,
            avatar_url: Option<String>,
        }
        let room = self.view.room.number.0;
        let before = replaced.and_then(Event::membership);
        let count = |counted: Membership, number: u64| {
            let number = if before == Some(counted) { number.saturating_sub(1) } else { number };
            if membership == counted { number + 1 } else { number }
        };
        self.head.row.joined = count(Membership::Join, self.head.row.joined);
        self.head.row.invited = count(Membership::Invite, self.head.row.invited);
        self.count_server(user_id, before, Some(membership)).await?;
        let short = |text: Option<String>| text.filter(|text| text.len() <= MOST_PROFILE_BYTES);
        let (displayname, avatar_url) = match event.content_as::<Content>() {
            Some(Content { displayname, avatar_url }) => (short(displayname), short(avatar_url)),
            None => (None, None),
        };
        let row = MemberRow { membership, event: event.number.0, displayname, avatar_url };
        self.transaction.put(&rows::MEMBERS, (room, user_id), &row);
        let parsed = <&UserId>::try_from(user_id);
        if let Some(localpart) = parsed.ok().and_then(|user_id| self.view.rooms.localpart(user_id)) {
            self.note_user_room(localpart, event.number, membership, before).await?;
        }
        Ok(())
    }

    /// Somebody has no membership any more: an event that gave it does not stand in the room's state.
    pub(super) async fn unnote_membership(
        &mut self,
        event: &Event,
        replaced: Option<&Event>,
        user_id: &str,
    ) -> Result<(), RoomError> {
        let before = replaced.and_then(Event::membership);
        let head = &mut self.head.row;
        match before {
            Some(Membership::Join) => head.joined = head.joined.saturating_sub(1),
            Some(Membership::Invite) => head.invited = head.invited.saturating_sub(1),
            _ => {}
        }
        self.count_server(user_id, before, None).await?;
        self.transaction.delete(&rows::MEMBERS, (self.view.room.number.0, user_id));
        let parsed = <&UserId>::try_from(user_id);
        if let Some(localpart) = parsed.ok().and_then(|user_id| self.view.rooms.localpart(user_id)) {
            self.note_user_room(localpart, event.number, Membership::Leave, before).await?;
        }
        Ok(())
    }

    async fn note_user_room(
        &mut self,
        localpart: &str,
        number: EventNumber,
        membership: Membership,
        before: Option<Membership>,
    ) -> Result<(), RoomError> {
        let old = self.user_room(localpart).await?;
        let was_told = old.as_ref().is_some_and(|old| old.event < FIRST_NUMBER);
        let was_joined = before == Some(Membership::Join) || old.is_some_and(|old| old.was_joined);
        if was_told {
            self.transaction.delete(&rows::TOLD_STATES, (self.view.room.number.0, localpart));
        }
        let row = UserRoomRow { membership, event: number.0, was_joined, forgotten: false, before };
        self.put_user_room(localpart, row);
        Ok(())
    }

    /// Indexes the event under the event that it relates to.
    pub(super) async fn note_relation(&mut self, event: &Event) -> Result<(), RoomError> {
        let Some(relation) = Relation::of(event) else { return Ok(()) };
        let Some(target) = self.find(&relation.event_id).await? else {
            self.put_early_relation(&relation.event_id, event.number.0);
            return Ok(());
        };
        self.relate(event, &relation, &target).await
    }

    /// Indexes the events that relate to this one and came before it, as those do that stand behind history.
    pub(super) async fn note_early_relations(&mut self, event: &Event) -> Result<(), RoomError> {
        for number in self.take_early_relations(&event.event_id).await? {
            let Some(other) = self.event(EventNumber(number)).await? else { continue };
            // One that was redacted meanwhile relates to nothing.
            if let Some(relation) = Relation::of(&other) {
                self.relate(&other, &relation, event).await?;
            }
        }
        Ok(())
    }

    async fn relate(&mut self, event: &Event, relation: &Relation, target: &Event) -> Result<(), RoomError> {
        let row = RelationRow {
            rel_type: relation.rel_type.clone(),
            event_type: event.event_type.to_string(),
            sender: event.sender.to_string(),
        };
        self.put_relation(target.number.0, event.number.0, row);
        let old = self.aggregate(target.number).await?;
        let mut aggregate = old.clone().unwrap_or_default();
        match relation.rel_type.as_str() {
            "m.replace" if crate::relations::is_edit_of(event, target) => {
                let newest = aggregate.edit.unwrap_or((i64::MIN, 0));
                let edit = (event.number.0, event.origin_server_ts);
                if (edit.1, edit.0) > (newest.1, newest.0) {
                    aggregate.edit = Some(edit);
                }
            }
            "m.thread" => self.note_thread(event, target, &mut aggregate),
            "m.reference" if aggregate.references.len() < MOST_REFERENCES => {
                aggregate.references.push(event.number.0);
            }
            _ => return Ok(()),
        }
        self.put_aggregate(target.number, old.as_ref(), aggregate);
        Ok(())
    }

    /// What the relations to an event come to, as it will be behind what was made here so far.
    async fn aggregate(&self, target: EventNumber) -> Result<Option<AggregateRow>, RoomError> {
        if let Some(changed) = self.aggregates.get(&target) {
            return Ok(Some(changed.clone()));
        }
        let key = (self.view.room.number.0, target.0);
        Ok(self.view.snapshot.get(&rows::AGGREGATES, key).await?)
    }

    fn put_aggregate(&mut self, target: EventNumber, old: Option<&AggregateRow>, new: AggregateRow) {
        let key = (self.view.room.number.0, target.0);
        if !self.aggregates.contains_key(&target) {
            self.transaction.check_unchanged(&rows::AGGREGATES, key, old);
        }
        self.transaction.put(&rows::AGGREGATES, key, &new);
        self.aggregates.insert(target, new);
    }

    fn note_thread(&mut self, event: &Event, root: &Event, aggregate: &mut AggregateRow) {
        let room = self.view.room.number.0;
        let latest = aggregate.thread_latest.map_or(event.number.0, |latest| latest.max(event.number.0));
        if let Some(before) = aggregate.thread_latest {
            self.transaction.delete(&rows::THREADS, (room, before));
        } else {
            let key = (room, root.number.0, root.sender.as_str());
            self.transaction.put(&rows::THREAD_PARTICIPANTS, key, &());
        }
        aggregate.thread_latest = Some(latest);
        aggregate.thread_count += 1;
        self.transaction.put(&rows::THREADS, (room, latest), &root.number.into());
        let key = (room, root.number.0, event.sender.as_str());
        self.transaction.put(&rows::THREAD_PARTICIPANTS, key, &());
    }

    pub(super) async fn find(&self, event_id: &EventId) -> Result<Option<Arc<Event>>, RoomError> {
        if let Some(event) = self.made_ids.get(event_id).and_then(|number| self.made.get(number)) {
            return Ok(Some(Arc::clone(event)));
        }
        let known = self.written.numbers.lock().get(event_id).copied();
        let number = match known {
            Some(number) => Some(number),
            None => self.view.number_of(event_id).await?,
        };
        let Some(number) = number else { return Ok(None) };
        if known.is_none() {
            self.written.numbers.lock().insert(event_id.to_owned(), number);
        }
        self.view.event(number).await
    }

    /// Redacts the event that this one redacts, if it may (S-S API, "Handling redactions" of each room version). Answers which.
    pub(super) async fn apply_redaction(&mut self, event: &Event) -> Result<Option<i64>, RoomError> {
        let Some(event_id) = event.redacts() else { return Ok(None) };
        let Some(target) = self.find(&event_id).await? else {
            self.put_early_redaction(&event_id, event.number.0);
            return Ok(None);
        };
        self.redact_event(event, &target).await
    }

    /// Redacts an event whose redaction came before it.
    pub(super) async fn apply_early_redaction(&mut self, event: &Event) -> Result<(), RoomError> {
        let Some(number) = self.take_early_redaction(&event.event_id).await? else { return Ok(()) };
        if let Some(redaction) = self.event(EventNumber(number)).await? {
            self.redact_event(&redaction, event).await?;
        }
        Ok(())
    }

    async fn redact_event(&mut self, event: &Event, target: &Event) -> Result<Option<i64>, RoomError> {
        if target.redacted_by().is_some() || !self.may_redact(event, target).await? {
            return Ok(None);
        }
        let damaged = |error: &dyn std::fmt::Display| RoomError::Internal(format!("a stored event: {error}"));
        let mut object: CanonicalJsonObject =
            serde_json::from_slice(target.json()).map_err(|error| damaged(&error))?;
        redact_in_place(&mut object, &self.view.room.rules.redaction, None)
            .map_err(|error| damaged(&error))?;
        let mut header = target.header().clone();
        header.redacted_by = Some(event.number.0);
        // With its content it lost what made it sticky.
        header.sticky_until = None;
        let json = serde_json::to_vec(&object).map_err(|error| damaged(&error))?;
        let stored = StoredEvent { position: target.position, header, json: json.into() };
        let room = self.view.room.number.0;
        self.transaction.put(&rows::EVENTS, (room, target.number.0), &stored);
        self.transaction.delete(&rows::STICKY, (room, target.number.0));
        if let Some(known_as) = target.header().known_as
            && let Some(outlier) = self.event(EventNumber(known_as)).await?
        {
            let header = EventHeader { redacted_by: Some(event.number.0), ..outlier.header().clone() };
            let stored = StoredEvent { position: outlier.position, header, json: stored.json.clone() };
            self.transaction.put(&rows::EVENTS, (room, known_as), &stored);
            self.redacted.push(EventNumber(known_as));
            self.made.insert(known_as, Arc::new(Event::new(self.view.room.number, known_as, stored)?));
        }
        // What comes behind it here is to find it as it is now.
        self.keep(&Arc::new(Event::new(self.view.room.number, target.number.0, stored)?));
        if let Some(state_key) = &target.state_key {
            // The present state can hold it in its old form.
            self.head
                .current
                .remove(&(StateEventType::from(target.event_type.to_string()), state_key.clone()));
        }
        self.unnote_relation(target).await?;
        Ok(Some(target.number.0))
    }

    async fn may_redact(&mut self, redaction: &Event, target: &Event) -> Result<bool, RoomError> {
        if redaction.sender.server_name() == target.sender.server_name() {
            return Ok(true);
        }
        let create = self.current(&StateEventType::RoomCreate, "").await?;
        let levels = self.current(&StateEventType::RoomPowerLevels, "").await?;
        let create =
            create.ok_or_else(|| RoomError::Internal(String::from("a room without a create event")))?;
        let powers = Powers::new(&create, levels, &self.view.room.rules.authorization)?;
        Ok(powers.may(&redaction.sender, RoomPowerLevelsIntField::Redact))
    }

    /// Takes a redacted event out of what it was counted in.
    async fn unnote_relation(&mut self, event: &Event) -> Result<(), RoomError> {
        let Some(relation) = Relation::of(event) else { return Ok(()) };
        let Some(target) = self.find(&relation.event_id).await? else { return Ok(()) };
        let room = self.view.room.number.0;
        self.delete_relation(target.number.0, event.number.0);
        let Some(old) = self.aggregate(target.number).await? else { return Ok(()) };
        let mut aggregate = old.clone();
        let others = self.others_related(&target, &relation.rel_type, event.number).await?;
        match relation.rel_type.as_str() {
            "m.replace" if aggregate.edit.is_some_and(|(number, _)| number == event.number.0) => {
                let edits = others.iter().filter(|other| crate::relations::is_edit_of(other, &target));
                let newest = edits.max_by_key(|edit| (edit.origin_server_ts, edit.number));
                aggregate.edit = newest.map(|edit| (edit.number.0, edit.origin_server_ts));
            }
            "m.thread" => {
                aggregate.thread_count = aggregate.thread_count.saturating_sub(1);
                if aggregate.thread_latest == Some(event.number.0) {
                    self.transaction.delete(&rows::THREADS, (room, event.number.0));
                    let latest = others.iter().map(|other| other.number).max();
                    aggregate.thread_latest = latest.map(|latest| latest.0);
                    if let Some(latest) = latest {
                        self.transaction.put(&rows::THREADS, (room, latest.0), &target.number.into());
                    }
                }
            }
            "m.reference" => aggregate.references.retain(|number| *number != event.number.0),
            _ => return Ok(()),
        }
        self.put_aggregate(target.number, Some(&old), aggregate);
        Ok(())
    }

    async fn others_related(
        &self,
        target: &Event,
        rel_type: &str,
        except: EventNumber,
    ) -> Result<Vec<Arc<Event>>, RoomError> {
        let mut others = Vec::new();
        for (number, row) in self.relations_to(target.number.0).await? {
            if row.rel_type == rel_type && number != except.0 {
                others.extend(self.event(EventNumber(number)).await?);
            }
        }
        Ok(others)
    }
}

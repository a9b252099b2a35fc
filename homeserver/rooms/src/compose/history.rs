//! Events whose place in the graph is told and not known: what came before a room's beginning here, and what came behind a gap.

use std::{collections::HashMap, sync::Arc};

use entente_storage::LogPosition;

use super::{
    Composer,
    receive::{Verdict, already_decided},
};
use crate::{
    Change, Event, RoomError,
    incoming::{Chapter, Received, ToldState, VerifiedPdu},
    rows::{EventHeader, FIRST_NUMBER, SEGMENT, StoredEvent},
    state::{EventNumber, StateRoot},
};

impl Composer {
    /// Takes in an event with the state before it as another server told it.
    pub(crate) async fn receive_with_state(
        &mut self,
        pdu: &VerifiedPdu,
        told: &ToldState,
    ) -> Result<Received, RoomError> {
        let known = self.find(&pdu.event_id).await?;
        if let Some(answer) = known.as_deref().and_then(already_decided) {
            return Ok(answer);
        }
        self.add_outliers(told, Some(&pdu.event_id)).await?;
        let (auth_events, missing) = self.find_all(&pdu.auth_events).await?;
        if !missing.is_empty() {
            return Ok(Received::MissingAuthEvents(missing));
        }
        let mut states = vec![self.state_of_events(&told.state).await?];
        let (prev_events, _) = self.find_all(&pdu.prev_events).await?;
        states
            .extend(prev_events.iter().filter(|event| !event.is_outlier()).map(|event| event.state_after()));
        let state_before = self.resolve(&states).await?;
        let known_as = known.map(|known| known.number.0);
        let (event, mut stored) = self.unplaced(pdu, self.head.row.next_event, known_as, state_before)?;
        let verdict = self.judge(&event, &auth_events, state_before).await?;
        let verdict = self.heed_policy(&event, &mut stored, verdict).await?;
        self.place(event, stored, verdict, &auth_events).await
    }

    /// Puts history before the room's beginning, or into a gap.
    pub(crate) async fn add_history(&mut self, chapter: &Chapter) -> Result<usize, RoomError> {
        let mut told = HashMap::new();
        // Before the first event of all there is no state.
        for (event_id, state) in chapter.told.iter().filter(|(_, told)| !told.state.is_empty()) {
            self.add_outliers(state, None).await?;
            told.insert(event_id, self.state_of_events(&state.state).await?);
        }
        let mut unknown = Vec::with_capacity(chapter.events.len());
        for pdu in &chapter.events {
            let known = self.find(&pdu.event_id).await?;
            if known.as_deref().is_none_or(|known| already_decided(known).is_none()) {
                unknown.push((pdu, known.map(|known| known.number.0)));
            }
        }
        let count = i64::try_from(unknown.len()).unwrap_or(i64::MAX);
        let gaps = &self.head.row.gaps;
        let (end, least) = match chapter.gap {
            None => (self.head.row.first_event, FIRST_NUMBER),
            Some(gap) => match gaps.iter().find(|row| row.behind == gap.0) {
                Some(row) => (row.first, row.behind - SEGMENT / 2),
                // It was closed meanwhile.
                None => return Ok(0),
            },
        };
        let first = end.saturating_sub(count);
        if first < least {
            return Err(RoomError::TooLarge("this room has more history than it can have"));
        }
        let mut added = 0;
        // Those that cannot be added leave their numbers free.
        for ((pdu, known_as), number) in unknown.into_iter().zip(first..) {
            if self.add_past_event(pdu, number, told.get(&pdu.event_id).copied(), known_as).await? {
                added += 1;
            }
        }
        match chapter.gap {
            _ if added == 0 => {}
            None => self.head.row.first_event = first,
            Some(gap) => {
                for row in self.head.row.gaps.iter_mut().filter(|row| row.behind == gap.0) {
                    row.first = first;
                }
            }
        }
        Change::Past { room: self.view.room.number.0 }.log_in(&mut self.transaction);
        Ok(added)
    }

    /// Forgets that there is a gap.
    pub(crate) fn close_gap(&mut self, gap: EventNumber) {
        self.head.row.gaps.retain(|row| row.behind != gap.0);
        Change::Past { room: self.view.room.number.0 }.log_in(&mut self.transaction);
    }

    async fn add_past_event(
        &mut self,
        pdu: &VerifiedPdu,
        number: i64,
        told: Option<StateRoot>,
        known_as: Option<i64>,
    ) -> Result<bool, RoomError> {
        let (auth_events, missing) = self.find_all(&pdu.auth_events).await?;
        if !missing.is_empty() {
            return Ok(false);
        }
        let (prev_events, missing) = self.find_all(&pdu.prev_events).await?;
        let is_complete = missing.is_empty() && prev_events.iter().all(|event| !event.is_outlier());
        let states: Vec<StateRoot> =
            prev_events.iter().filter(|event| !event.is_outlier()).map(|event| event.state_after()).collect();
        let state_before = match told {
            _ if is_complete && (!states.is_empty() || pdu.event_type == "m.room.create") => {
                self.resolve(&states).await?
            }
            Some(told) => told,
            None => return Ok(false),
        };
        let (event, mut stored) = self.unplaced(pdu, number, known_as, state_before)?;
        let verdict = self.judge_past(&event, &auth_events, state_before).await?;
        stored.header.rejected = matches!(verdict, Verdict::Rejected(_));
        if stored.header.sticky_until.is_some() && !self.is_allowed_now(&event).await? {
            stored.header.sticky_until = None;
        }
        if event.state_key.is_some() && !stored.header.rejected {
            let after = self.with_event(state_before, &event).await?;
            stored.header.state_after = Some(after.encode());
            let replaced = self.replaced_by(&event).await?;
            stored.header.replaces = replaced.as_ref().map(|replaced| replaced.number.0);
            if known_as.is_none() {
                self.assign_chain(event.number, &event, &auth_events).await?;
            }
        }
        let next_event = self.head.row.next_event;
        self.put_rows(&event, &stored)?;
        self.head.row.next_event = next_event;
        let event = Arc::new(Event::new(self.view.room.number, number, stored)?);
        self.keep(&event);
        if event.is_shown() {
            if event.sticky_duration().is_some() {
                let (room, number) = (self.view.room.number.0, Some(number));
                Change::Sticky { room, number }.log_in(&mut self.transaction);
            }
            self.note_relation(&event).await?;
            self.note_early_relations(&event).await?;
            let redacted = self.apply_redaction(&event).await?;
            self.redacted.extend(redacted.map(crate::state::EventNumber));
            self.apply_early_redaction(&event).await?;
        }
        Ok(true)
    }

    /// An event with the state before it, and nothing decided about it yet.
    pub(super) fn unplaced(
        &self,
        pdu: &VerifiedPdu,
        number: i64,
        known_as: Option<i64>,
        state_before: StateRoot,
    ) -> Result<(Event, StoredEvent), RoomError> {
        let header = EventHeader {
            event_id: pdu.event_id.to_string(),
            state_before: state_before.encode(),
            known_as,
            ..EventHeader::default()
        };
        let mut stored = StoredEvent { position: LogPosition::AT_COMMIT, header, json: pdu.json.clone() };
        let event = Event::new(self.view.room.number, number, stored.clone())?;
        self.check_room(&event)?;
        stored.header.sticky_until = event.sticky_until(self.view.now());
        Ok((event, stored))
    }
}

//! Events as clients get them (C-S API, "Room event format"), written from their stored bytes without parsing their contents.

use std::{collections::HashMap, sync::Arc};

use entente_environment::Timestamp;
use ruma::UserId;
use serde::Serialize;

use crate::{
    Event, Membership, Relation, RoomError, RoomView, Seen,
    rows::{self, AggregateRow},
    state::EventNumber,
};

/// Who reads, for what differs from reader to reader.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    /// The user.
    pub user_id: &'a UserId,
    /// The device, which gets the transaction ids of what it sent.
    pub device_id: &'a str,
}

/// Which fields an event has beside its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// With `room_id`.
    WithRoom,
    /// Without, as in `/sync`.
    WithoutRoom,
}

/// What belongs into the `unsigned` of some events, found for all of them at once.
#[derive(Debug, Default)]
pub struct Unsigned {
    replaced: HashMap<EventNumber, Arc<Event>>,
    redactions: HashMap<EventNumber, Arc<Event>>,
    aggregates: HashMap<EventNumber, Aggregate>,
}

#[derive(Debug)]
struct Aggregate {
    edit: Option<Arc<Event>>,
    thread: Option<ThreadSummary>,
    references: Vec<String>,
}

#[derive(Debug)]
struct ThreadSummary {
    latest: Arc<Event>,
    latest_edit: Option<Arc<Event>>,
    count: u64,
    participated: bool,
}

impl RoomView {
    /// Events as a user's client gets them: one JSON object each.
    pub async fn client_events(
        &self,
        reader: Reader<'_>,
        events: &[Seen],
        shape: Shape,
    ) -> Result<Vec<Vec<u8>>, RoomError> {
        let unsigned = self.unsigned(reader, events).await?;
        let write = |seen: &Seen| {
            let mut json = Vec::with_capacity(seen.event.json().len());
            self.write_event(&mut json, reader, seen, &unsigned, shape);
            json
        };
        Ok(events.iter().map(write).collect())
    }

    /// State events as a user's client gets them: without what others made of them.
    pub fn write_state_event(&self, json: &mut Vec<u8>, event: &Event, shape: Shape) {
        let now = self.rooms.inner.environment.now().millis();
        let mut writer = ObjectWriter::begin(json);
        self.write_fields(&mut writer, event, shape);
        writer.raw("unsigned", format!("{{\"age\":{}}}", age(event, now)).as_bytes());
        writer.end();
    }

    /// Finds what belongs into the `unsigned` of these events.
    pub async fn unsigned(&self, reader: Reader<'_>, events: &[Seen]) -> Result<Unsigned, RoomError> {
        let replaced = events.iter().filter_map(|seen| seen.event.replaces());
        let redactions = events.iter().filter_map(|seen| seen.event.redacted_by());
        Ok(Unsigned {
            replaced: self.events_by_number(replaced).await?,
            redactions: self.events_by_number(redactions).await?,
            aggregates: self.aggregates(reader.user_id, events).await?,
        })
    }

    async fn events_by_number(
        &self,
        numbers: impl Iterator<Item = EventNumber>,
    ) -> Result<HashMap<EventNumber, Arc<Event>>, RoomError> {
        let numbers: Vec<EventNumber> = numbers.collect();
        if numbers.is_empty() {
            return Ok(HashMap::new());
        }
        let events = self.events(&numbers).await?;
        Ok(events.into_iter().map(|event| (event.number, event)).collect())
    }

    async fn aggregates(
        &self,
        reader: &UserId,
        events: &[Seen],
    ) -> Result<HashMap<EventNumber, Aggregate>, RoomError> {
        let rows = self.aggregate_rows(events).await?;
        let mut aggregates = HashMap::with_capacity(rows.len());
        for (number, row) in rows {
            let edit = match row.edit {
                Some((edit, _)) => self.seen_event(reader, EventNumber(edit)).await?,
                None => None,
            };
            let thread = match row.thread_latest {
                Some(latest) => {
                    self.thread_summary(reader, number, EventNumber(latest), row.thread_count).await?
                }
                None => None,
            };
            let references: Vec<EventNumber> = row.references.into_iter().map(EventNumber).collect();
            let references = self.visible(reader, self.events(&references).await?).await?;
            let references = references.into_iter().map(|event| event.event_id.to_string()).collect();
            aggregates.insert(number, Aggregate { edit, thread, references });
        }
        Ok(aggregates)
    }

    /// An event, if the reader may see it: what came after somebody left is not bundled for them either.
    async fn seen_event(
        &self,
        reader: &UserId,
        number: EventNumber,
    ) -> Result<Option<Arc<Event>>, RoomError> {
        let Some(event) = self.event(number).await? else { return Ok(None) };
        Ok(self.visible(reader, vec![event]).await?.pop())
    }

    /// Most events have no aggregates, and those of a page lie together: one scan finds them.
    async fn aggregate_rows(&self, events: &[Seen]) -> Result<Vec<(EventNumber, AggregateRow)>, RoomError> {
        let room = self.room.number.0;
        let numbers = || events.iter().map(|seen| seen.event.number.0);
        let (Some(first), Some(last)) = (numbers().min(), numbers().max()) else { return Ok(Vec::new()) };
        // What relates to the newest events of a room is among them.
        let reach_the_end = last.abs_diff(first) + 1 == events.len() as u64
            && last.saturating_add(1) == self.next_event().await?.0;
        if reach_the_end && events.iter().all(|seen| Relation::of(&seen.event).is_none()) {
            return Ok(Vec::new());
        }
        let span = last.abs_diff(first);
        if span > 4 * events.len() as u64 + 32 {
            let found =
                self.snapshot.get_many(&rows::AGGREGATES, numbers().map(|number| (room, number))).await?;
            let found = numbers().zip(found).filter_map(|(number, row)| Some((EventNumber(number), row?)));
            return Ok(found.collect());
        }
        let scan = rows::AGGREGATES.scan((room,)).from((room, first)).to((room, last));
        let rows = self.snapshot.scan_all(scan).await?;
        Ok(rows.into_iter().map(|((_, number), row)| (EventNumber(number), row)).collect())
    }

    async fn thread_summary(
        &self,
        reader: &UserId,
        root: EventNumber,
        latest: EventNumber,
        count: u64,
    ) -> Result<Option<ThreadSummary>, RoomError> {
        let Some(latest) = self.seen_event(reader, latest).await? else { return Ok(None) };
        let key = (self.room.number.0, root.0, reader.as_str());
        let participated = self.snapshot.get(&rows::THREAD_PARTICIPANTS, key).await?.is_some();
        let row = self.snapshot.get(&rows::AGGREGATES, (self.room.number.0, latest.number.0)).await?;
        let latest_edit = match row.and_then(|row| row.edit) {
            Some((edit, _)) => self.seen_event(reader, EventNumber(edit)).await?,
            None => None,
        };
        Ok(Some(ThreadSummary { latest, latest_edit, count, participated }))
    }

    /// An event as application services get it: with what it replaced or what redacted it, and with nothing that is told to a
    /// user alone.
    pub async fn service_event(&self, event: &Event) -> Result<Vec<u8>, RoomError> {
        let replaced = self.events_by_number(event.replaces().into_iter()).await?;
        let redactions = self.events_by_number(event.redacted_by().into_iter()).await?;
        let now = self.rooms.inner.environment.now().millis();
        let mut json = Vec::with_capacity(event.json().len());
        let mut writer = ObjectWriter::begin(&mut json);
        self.write_fields(&mut writer, event, Shape::WithRoom);
        writer.key("unsigned");
        let mut inner = ObjectWriter::begin(writer.json);
        inner.raw("age", age(event, now).to_string().as_bytes());
        if let Some(replaced) = replaced.values().next() {
            inner.value("replaces_state", replaced.event_id.as_str());
            inner.value("prev_sender", replaced.sender.as_str());
            inner.raw("prev_content", replaced.content_bytes());
        }
        if let Some(redaction) = redactions.values().next() {
            inner.key("redacted_because");
            self.write_plain(inner.json, redaction, Shape::WithRoom);
        }
        inner.end();
        writer.end();
        Ok(json)
    }

    /// Writes an event as a user's client gets it.
    pub fn write_event(
        &self,
        json: &mut Vec<u8>,
        reader: Reader<'_>,
        seen: &Seen,
        unsigned: &Unsigned,
        shape: Shape,
    ) {
        let event = &seen.event;
        let now = self.rooms.inner.environment.now().millis();
        let mut writer = ObjectWriter::begin(json);
        self.write_fields(&mut writer, event, shape);
        writer.key("unsigned");
        let mut inner = ObjectWriter::begin(writer.json);
        inner.raw("age", age(event, now).to_string().as_bytes());
        if let Some(transaction_id) = event.transaction_id_of(reader.user_id, reader.device_id) {
            inner.value("transaction_id", transaction_id);
        }
        if let Some(delay_id) = event.delay_id_of(reader.user_id) {
            // MSC4140.
            inner.value("org.matrix.msc4140.delay_id", delay_id);
        }
        if let Some(left) = event.sticky_for(Timestamp(now)) {
            inner.value("msc4354_sticky_duration_ttl_ms", left);
        }
        inner.value("membership", seen.membership.as_str());
        if let Some(replaced) = event.replaces().and_then(|number| unsigned.replaced.get(&number)) {
            inner.value("replaces_state", replaced.event_id.as_str());
            inner.value("prev_sender", replaced.sender.as_str());
            inner.raw("prev_content", replaced.content_bytes());
        }
        if let Some(redaction) = event.redacted_by().and_then(|number| unsigned.redactions.get(&number)) {
            inner.key("redacted_because");
            self.write_plain(inner.json, redaction, shape);
        }
        if event.redacted_by().is_none()
            && let Some(aggregate) = unsigned.aggregates.get(&event.number)
        {
            self.write_aggregate(&mut inner, aggregate, shape);
        }
        inner.end();
        writer.end();
    }

    fn write_aggregate(&self, unsigned: &mut ObjectWriter<'_>, aggregate: &Aggregate, shape: Shape) {
        unsigned.key("m.relations");
        let mut relations = ObjectWriter::begin(unsigned.json);
        if let Some(edit) = &aggregate.edit {
            relations.key("m.replace");
            self.write_plain(relations.json, edit, shape);
        }
        if let Some(thread) = &aggregate.thread {
            relations.key("m.thread");
            let mut summary = ObjectWriter::begin(relations.json);
            summary.key("latest_event");
            self.write_latest(summary.json, thread, shape);
            summary.raw("count", thread.count.to_string().as_bytes());
            summary.raw("current_user_participated", thread.participated.to_string().as_bytes());
            summary.end();
        }
        if !aggregate.references.is_empty() {
            relations.key("m.reference");
            let mut references = ObjectWriter::begin(relations.json);
            references.list("chunk", &aggregate.references, |json, event_id| {
                let mut reference = ObjectWriter::begin(json);
                reference.value("event_id", event_id);
                reference.end();
            });
            references.end();
        }
        relations.end();
    }

    /// The newest event of a thread carries its own edit.
    fn write_latest(&self, json: &mut Vec<u8>, thread: &ThreadSummary, shape: Shape) {
        let Some(edit) = &thread.latest_edit else { return self.write_plain(json, &thread.latest, shape) };
        let now = self.rooms.inner.environment.now().millis();
        let mut writer = ObjectWriter::begin(json);
        self.write_fields(&mut writer, &thread.latest, shape);
        writer.key("unsigned");
        let mut unsigned = ObjectWriter::begin(writer.json);
        unsigned.raw("age", age(&thread.latest, now).to_string().as_bytes());
        unsigned.key("m.relations");
        let mut relations = ObjectWriter::begin(unsigned.json);
        relations.key("m.replace");
        self.write_plain(relations.json, edit, shape);
        relations.end();
        unsigned.end();
        writer.end();
    }

    /// An event without what is told of it to this reader alone.
    fn write_plain(&self, json: &mut Vec<u8>, event: &Event, shape: Shape) {
        self.write_state_event(json, event, shape);
    }

    fn write_fields(&self, writer: &mut ObjectWriter<'_>, event: &Event, shape: Shape) {
        writer.raw("content", event.content_bytes());
        writer.value("event_id", event.event_id.as_str());
        writer.raw("origin_server_ts", event.origin_server_ts.to_string().as_bytes());
        if let Some(redacts) = event.redacts() {
            writer.value("redacts", redacts.as_str());
        }
        if shape == Shape::WithRoom {
            writer.value("room_id", self.room.room_id.as_str());
        }
        writer.value("sender", event.sender.as_str());
        if let Some(state_key) = &event.state_key {
            writer.value("state_key", state_key.as_str());
        }
        writer.value("type", event.event_type.to_string().as_str());
        if let Some(duration) = event.sticky_duration() {
            writer.raw("msc4354_sticky", format!("{{\"duration_ms\":{duration}}}").as_bytes());
        }
    }

    /// What somebody sees of a room before they are in it: content, sender, state key, type.
    pub fn write_stripped(&self, json: &mut Vec<u8>, event: &Event) {
        let mut writer = ObjectWriter::begin(json);
        writer.raw("content", event.content_bytes());
        writer.value("sender", event.sender.as_str());
        writer.value("state_key", event.state_key.as_deref().unwrap_or_default());
        writer.value("type", event.event_type.to_string().as_str());
        writer.end();
    }
}

/// Milliseconds since an event was sent; none for one from the future.
fn age(event: &Event, now: u64) -> u64 {
    now.saturating_sub(event.origin_server_ts)
}

/// What somebody who left sees of their membership elsewhere.
impl Seen {
    /// An event that its reader has in front of them as a member.
    pub fn as_member(event: Arc<Event>) -> Self {
        Self { event, membership: Membership::Join }
    }
}

/// Writes a JSON object into a buffer.
pub struct ObjectWriter<'a> {
    /// The buffer. Whoever writes to it directly leaves whole values.
    pub json: &'a mut Vec<u8>,
    is_empty: bool,
}

impl<'a> ObjectWriter<'a> {
    /// Begins an object.
    pub fn begin(json: &'a mut Vec<u8>) -> Self {
        json.push(b'{');
        Self { json, is_empty: true }
    }

    /// Writes a key; a value must follow.
    pub fn key(&mut self, key: &str) {
        if !std::mem::replace(&mut self.is_empty, false) {
            self.json.push(b',');
        }
        write_json(self.json, &key);
        self.json.push(b':');
    }

    /// Writes a key, and its value as the JSON that it is.
    pub fn raw(&mut self, key: &str, value: &[u8]) {
        self.key(key);
        self.json.extend_from_slice(value);
    }

    /// Writes a key and a value.
    pub fn value<T: Serialize>(&mut self, key: &str, value: T) {
        self.key(key);
        write_json(self.json, &value);
    }

    /// Writes a key and an array.
    pub fn list<T>(&mut self, key: &str, items: &[T], write: impl Fn(&mut Vec<u8>, &T)) {
        self.key(key);
        self.json.push(b'[');
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.json.push(b',');
            }
            write(self.json, item);
        }
        self.json.push(b']');
    }

    /// Ends the object.
    pub fn end(self) {
        self.json.push(b'}');
    }
}

/// Writes a value whose serialisation cannot fail.
fn write_json<T: Serialize>(json: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(json, value).expect("writing to memory does not fail");
}

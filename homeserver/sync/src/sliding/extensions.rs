//! What a client gets beside rooms.

use std::collections::BTreeMap;

use entente_accounts::AccountDataEntry;
use entente_encryption::KeyCounts;
use entente_rooms::{ObjectWriter, RoomNumber};
use entente_storage::{Bytes, Position};
use serde_json::{Value, json};

use super::{
    SlidingRequest, ToDeviceExtension,
    connection::Connection,
    lists::{Selection, Wanted},
    request::RoomsOfExtension,
    room::MadeRoom,
    sticky::StickyEvents,
};
use crate::{
    SyncError, SyncToken,
    device_lists::{DeviceLists, company_since},
    others,
    response::{Making, write_list},
};

/// To-device messages of one answer at the most.
const MOST_TO_DEVICE: usize = 500;
/// To-device messages of one answer unless the client says otherwise.
const DEFAULT_TO_DEVICE: usize = 100;

/// What extensions gave.
#[derive(Debug, Default)]
pub(crate) struct Given {
    to_device: Option<ToDevice>,
    e2ee: Option<(DeviceLists, KeyCounts)>,
    global_account_data: Vec<AccountDataEntry>,
    room_account_data: BTreeMap<String, Vec<AccountDataEntry>>,
    receipts: BTreeMap<String, Value>,
    typing: BTreeMap<String, Value>,
    sticky: Option<StickyEvents>,
    /// Whether there is anything that the client did not have.
    pub(crate) has_news: bool,
}

#[derive(Debug)]
struct ToDevice {
    next_batch: Position,
    messages: Vec<Bytes>,
}

/// What extensions are made from.
pub(crate) struct Extending<'a> {
    pub(crate) request: &'a SlidingRequest,
    pub(crate) since: Option<&'a Position>,
    pub(crate) connection: &'a Connection,
    /// The state of the connection.
    pub(crate) state: u64,
    pub(crate) selection: &'a Selection<'a>,
    pub(crate) made: &'a BTreeMap<u64, MadeRoom>,
}

impl Extending<'_> {
    /// Everything that the request's extensions ask for.
    pub(crate) async fn all(&self, making: &mut Making<'_>) -> Result<Given, SyncError> {
        let mut given = Given::default();
        let extensions = &self.request.extensions;
        if let Some(wanted) = &extensions.to_device {
            self.to_device(making, wanted, &mut given).await?;
        }
        if extensions.e2ee {
            self.e2ee(making, &mut given).await?;
        }
        if let Some(wanted) = &extensions.account_data {
            self.account_data(making, wanted, &mut given).await?;
        }
        if let Some(wanted) = &extensions.receipts {
            self.receipts(making, wanted, &mut given).await?;
        }
        if let Some(wanted) = &extensions.typing {
            self.typing(making, wanted, &mut given).await?;
        }
        if let Some(wanted) = &extensions.sticky_events {
            let sticky = StickyEvents::find(self, making, wanted).await?;
            given.has_news |= sticky.has_news;
            given.sticky = Some(sticky);
        }
        Ok(given)
    }

    async fn to_device(
        &self,
        making: &Making<'_>,
        wanted: &ToDeviceExtension,
        given: &mut Given,
    ) -> Result<(), SyncError> {
        let inner = &making.sync.inner;
        let (localpart, device_id) = (self.request.user_id.localpart(), self.request.device_id.as_str());
        let after = match &wanted.since {
            None => Position::start(),
            Some(since) => SyncToken::parse(since).ok_or(SyncError::UnknownPosition)?.position,
        };
        let limit = wanted.limit.unwrap_or(DEFAULT_TO_DEVICE).clamp(1, MOST_TO_DEVICE);
        let encryption = &inner.encryption;
        let (snapshot, to) = (&making.snapshot, &making.position);
        let (messages, next_batch) =
            encryption.to_device_page(snapshot, localpart, device_id, &after, to, limit).await?;
        if !messages.is_empty() {
            inner.given.lock().insert((localpart.to_owned(), device_id.to_owned()));
        }
        given.has_news |= !messages.is_empty();
        given.to_device = Some(ToDevice { next_batch, messages });
        Ok(())
    }

    async fn e2ee(&self, making: &mut Making<'_>, given: &mut Given) -> Result<(), SyncError> {
        let mut lists = DeviceLists::default();
        if let Some(since) = self.since {
            let rooms = company_since(making, since).await?;
            lists = crate::device_lists::between(making, since, &rooms).await?;
        }
        let (localpart, device_id) = (self.request.user_id.localpart(), self.request.device_id.as_str());
        let encryption = &making.sync.inner.encryption;
        let counts = encryption.one_time_key_counts(&making.snapshot, localpart, device_id).await?;
        given.has_news |= !lists.is_empty();
        given.e2ee = Some((lists, counts));
        Ok(())
    }

    async fn account_data(
        &self,
        making: &Making<'_>,
        wanted: &RoomsOfExtension,
        given: &mut Given,
    ) -> Result<(), SyncError> {
        let accounts = &making.sync.inner.accounts;
        let localpart = self.request.user_id.localpart();
        // A room that comes into view brings all of its data, however old.
        let all = self.since.is_none() || self.made.values().any(|room| room.initial);
        let everything =
            accounts.account_data_since(&making.snapshot, localpart, self.since.filter(|_| !all)).await?;
        let changed = match self.since.filter(|_| all) {
            Some(since) => accounts.account_data_since(&making.snapshot, localpart, Some(since)).await?,
            None => everything.clone(),
        };
        let room_ids = self.relevant_ids(wanted);
        let is_new = |room_id: &str| {
            self.made.values().any(|room| room.initial && room.room_id == room_id)
                || self.was_left_behind(&room_ids, room_id)
        };
        for entry in everything {
            if !entry.room_id.is_empty() && room_ids.contains_key(&entry.room_id) && is_new(&entry.room_id) {
                given.room_account_data.entry(entry.room_id.clone()).or_default().push(entry);
            }
        }
        for entry in changed {
            if entry.room_id.is_empty() {
                given.global_account_data.push(entry);
            } else if room_ids.contains_key(&entry.room_id) && !is_new(&entry.room_id) {
                given.room_account_data.entry(entry.room_id.clone()).or_default().push(entry);
            }
        }
        given.has_news |= !given.global_account_data.is_empty() || !given.room_account_data.is_empty();
        Ok(())
    }

    async fn receipts(
        &self,
        making: &Making<'_>,
        wanted: &RoomsOfExtension,
        given: &mut Given,
    ) -> Result<(), SyncError> {
        for (number, _) in self.relevant(wanted) {
            let made = self.made.get(&number);
            let receipts = match (self.known(number), made) {
                // Of a room that is new to the client, those in front of it and its own.
                (None, Some(made)) => {
                    let own = making.request.user_id.as_str();
                    let view = making.view(RoomNumber(number)).await?;
                    let mut receipts = view.receipts(&making.request.user_id, None).await?;
                    receipts.retain(|receipt| {
                        made.timeline.contains(&receipt.event_id) || receipt.user_id == own
                    });
                    others::receipt_event(making, receipts)
                }
                (None, None) => None,
                (Some(since), _) => {
                    if !making.sync.inner.news.of_room(RoomNumber(number), &since).receipts {
                        continue;
                    }
                    let view = making.view(RoomNumber(number)).await?;
                    others::receipts(making, &view, Some(&since)).await?
                }
            };
            if let Some(receipts) = receipts {
                given.receipts.insert(self.id_of(making, number).await?, receipts);
            }
        }
        given.has_news |= !given.receipts.is_empty();
        Ok(())
    }

    async fn typing(
        &self,
        making: &Making<'_>,
        wanted: &RoomsOfExtension,
        given: &mut Given,
    ) -> Result<(), SyncError> {
        for (number, _) in self.relevant(wanted) {
            let known = self.known(number);
            if let Some(since) = &known
                && !making.sync.inner.news.of_room(RoomNumber(number), since).typing
            {
                continue;
            }
            let view = making.view(RoomNumber(number)).await?;
            if let Some(typing) = others::typing(making, &view, known.is_none()).await? {
                given.typing.insert(view.room.room_id.to_string(), typing);
            }
        }
        given.has_news |= !given.typing.is_empty();
        Ok(())
    }

    /// The rooms for which an extension is wanted, of those that the user is in.
    fn relevant(&self, wanted: &RoomsOfExtension) -> impl Iterator<Item = (u64, &Wanted<'_>)> {
        let wanted = wanted.clone();
        self.selection.rooms.iter().map(|(number, room)| (*number, room)).filter(move |(_, room)| {
            room.room.membership == entente_rooms::Membership::Join
                && wanted.contains(room.facts.room_id.as_str(), &room.lists, room.is_subscribed)
        })
    }

    fn relevant_ids(&self, wanted: &RoomsOfExtension) -> BTreeMap<String, u64> {
        let selected = self.selection.rooms.iter().filter(|(_, room)| {
            wanted.contains(room.facts.room_id.as_str(), &room.lists, room.is_subscribed)
        });
        selected.map(|(number, room)| (room.facts.room_id.to_string(), *number)).collect()
    }

    /// Up to where the client knows a room; `None`: nothing of it.
    fn known(&self, number: u64) -> Option<Position> {
        let sent = self.connection.sent(number, self.state).filter(|sent| sent.in_full)?;
        sent.up_to.clone().or_else(|| self.since.cloned())
    }

    fn was_left_behind(&self, room_ids: &BTreeMap<String, u64>, room_id: &str) -> bool {
        let number = room_ids.get(room_id).copied();
        let sent = number.and_then(|number| self.connection.sent(number, self.state));
        sent.is_some_and(|sent| sent.up_to.is_some())
    }

    async fn id_of(&self, making: &Making<'_>, number: u64) -> Result<String, SyncError> {
        match self.selection.rooms.get(&number) {
            Some(room) => Ok(room.facts.room_id.to_string()),
            None => Ok(making.view(RoomNumber(number)).await?.room.room_id.to_string()),
        }
    }
}

impl Given {
    /// Writes the object `extensions`.
    pub(crate) fn write(&self, writer: &mut ObjectWriter<'_>) {
        writer.key("extensions");
        let mut writer = ObjectWriter::begin(writer.json);
        if let Some(to_device) = &self.to_device {
            writer.key("to_device");
            let mut part = ObjectWriter::begin(writer.json);
            part.value("next_batch", SyncToken::new(to_device.next_batch.clone()).to_string());
            part.list("events", &to_device.messages, |json, message| json.extend_from_slice(message));
            part.end();
        }
        if let Some((lists, counts)) = &self.e2ee {
            writer.key("e2ee");
            let mut part = ObjectWriter::begin(writer.json);
            if !lists.is_empty() {
                part.key("device_lists");
                lists.write(part.json);
            }
            part.value("device_one_time_keys_count", &counts.one_time_keys);
            part.value("device_unused_fallback_key_types", &counts.unused_fallback);
            part.end();
        }
        if !self.global_account_data.is_empty() || !self.room_account_data.is_empty() {
            writer.key("account_data");
            let mut part = ObjectWriter::begin(writer.json);
            part.list("global", &self.global_account_data, write_entry);
            part.key("rooms");
            let mut rooms = ObjectWriter::begin(part.json);
            for (room_id, entries) in &self.room_account_data {
                rooms.key(room_id);
                write_list(rooms.json, entries, write_entry);
            }
            rooms.end();
            part.end();
        }
        for (key, rooms) in [("receipts", &self.receipts), ("typing", &self.typing)] {
            if !rooms.is_empty() {
                writer.value(key, json!({ "rooms": rooms }));
            }
        }
        if let Some(sticky) = &self.sticky {
            sticky.write(&mut writer);
        }
        writer.end();
    }
}

fn write_entry(json: &mut Vec<u8>, entry: &AccountDataEntry) {
    let mut event = ObjectWriter::begin(json);
    event.value("type", &entry.event_type);
    event.raw("content", &entry.content);
    event.end();
}

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use entente_accounts::AccountDataEntry;
use entente_encryption::KeyCounts;
use entente_rooms::{Membership, ObjectWriter, RoomNumber, RoomView, UserRoom};
use entente_storage::{Bytes, Position, Snapshot};

use crate::{
    Sync, SyncError, SyncRequest, SyncToken,
    device_lists::{DeviceLists, KeyCompany},
    joined,
    news::UserHints,
    request::{global_wants, room_part_wants},
};

/// To-device messages of one answer.
const MOST_TO_DEVICE: usize = 500;

/// An answer that is being put together. Rooms and events are JSON already.
#[derive(Debug)]
pub(crate) struct Response {
    next: SyncToken,
    pub(crate) account_data: Vec<AccountDataEntry>,
    to_device: Vec<Bytes>,
    /// Events of presence.
    pub(crate) presence: Vec<Vec<u8>>,
    pub(crate) join: Vec<Vec<u8>>,
    pub(crate) invite: Vec<Vec<u8>>,
    pub(crate) knock: Vec<Vec<u8>>,
    pub(crate) leave: Vec<Vec<u8>>,
    device_lists: DeviceLists,
    pub(crate) key_counts: KeyCounts,
}

/// What one answer is made from.
pub(crate) struct Making<'a> {
    pub(crate) sync: &'a Sync,
    pub(crate) request: &'a SyncRequest,
    pub(crate) snapshot: Snapshot,
    pub(crate) position: Position,
    pub(crate) redactions: u64,
    /// What may be new, if the client knows something.
    hints: Option<UserHints>,
    /// Account data of rooms that the client does not have yet, by room id.
    pub(crate) room_account_data: BTreeMap<String, Vec<AccountDataEntry>>,
    /// Whose events the user does not want to see.
    pub(crate) ignored: Vec<String>,
    /// With whom the user began or ceased to share encrypted rooms.
    pub(crate) company: KeyCompany,
}

/// Makes the answer to a request as a snapshot has it.
pub(crate) async fn build(
    sync: &Sync,
    request: &SyncRequest,
    snapshot: Snapshot,
    position: Position,
    redactions: u64,
) -> Result<Response, SyncError> {
    let mut response = Response::new(SyncToken::new(position.clone()));
    let mut making = Making::new(sync, request, snapshot, position, redactions);
    making.add_account_data(&mut response).await?;
    making.add_to_device(&mut response).await?;
    let rooms = making.add_rooms(&mut response).await?;
    making.add_device_lists(&mut response, &rooms).await?;
    making.add_presence(&mut response).await?;
    sync.add_key_counts(&mut response, &making.snapshot, request).await?;
    Ok(response)
}

/// Whose devices changed since the request's token, and whose went out of sight.
pub(crate) async fn key_changes(
    sync: &Sync,
    request: &SyncRequest,
    snapshot: Snapshot,
    position: Position,
    redactions: u64,
) -> Result<(BTreeSet<String>, BTreeSet<String>), SyncError> {
    let mut making = Making::new(sync, request, snapshot, position, redactions);
    let Some(since) = making.since().cloned() else { return Ok(Default::default()) };
    let rooms = crate::device_lists::company_since(&mut making, &since).await?;
    Ok(crate::device_lists::between(&mut making, &since, &rooms).await?.into_parts())
}

impl<'a> Making<'a> {
    pub(crate) fn new(
        sync: &'a Sync,
        request: &'a SyncRequest,
        snapshot: Snapshot,
        position: Position,
        redactions: u64,
    ) -> Self {
        let hints = request
            .since
            .as_ref()
            .map(|since| sync.inner.news.of_user(request.user_id.localpart(), &since.position));
        Self {
            sync,
            request,
            snapshot,
            position,
            redactions,
            hints,
            room_account_data: BTreeMap::new(),
            ignored: Vec::new(),
            company: KeyCompany::default(),
        }
    }
}

impl Making<'_> {
    pub(crate) fn since(&self) -> Option<&Position> {
        self.request.since.as_ref().map(|since| &since.position)
    }

    /// Finds out whose events the user does not want to see.
    pub(crate) async fn find_ignored(&mut self) -> Result<(), SyncError> {
        let localpart = self.request.user_id.localpart();
        self.ignored = self.sync.inner.accounts.ignored_users(&self.snapshot, localpart).await?;
        Ok(())
    }

    /// Whether the user wants to see no invites.
    pub(crate) async fn blocks_invites(&self) -> Result<bool, SyncError> {
        let localpart = self.request.user_id.localpart();
        Ok(self.sync.inner.accounts.blocks_invites(&self.snapshot, localpart).await?)
    }

    /// A room as the answer shows it.
    pub(crate) async fn view(&self, room: RoomNumber) -> Result<RoomView, SyncError> {
        Ok(self.sync.inner.rooms.view_in(&self.snapshot, room, self.redactions).await?)
    }

    /// All rooms that the user has to do with.
    pub(crate) async fn user_rooms(&self) -> Result<Arc<[UserRoom]>, SyncError> {
        let inner = &self.sync.inner;
        let localpart = self.request.user_id.localpart();
        if let Some(rooms) = inner.news.rooms_of(localpart, &self.position) {
            return Ok(rooms);
        }
        let rooms: Arc<[UserRoom]> = inner.rooms.user_rooms(&self.snapshot, localpart).await?.into();
        inner.news.remember_rooms(localpart, &self.position, &rooms);
        Ok(rooms)
    }

    pub(crate) async fn add_account_data(&mut self, response: &mut Response) -> Result<(), SyncError> {
        self.find_ignored().await?;
        let user_id = &self.request.user_id;
        let accounts = &self.sync.inner.accounts;
        let since = self.since().filter(|_| !self.request.full_state);
        if since.is_some() && self.hints.is_some_and(|hints| !hints.account_data) {
            return Ok(());
        }
        let changed = accounts.account_data_since(&self.snapshot, user_id.localpart(), since).await?;
        let filter = &self.request.filter.definition;
        for entry in changed {
            if entry.room_id.is_empty() {
                if global_wants(&filter.account_data, &entry.event_type) {
                    response.account_data.push(entry);
                }
            } else {
                self.room_account_data.entry(entry.room_id.clone()).or_default().push(entry);
            }
        }
        Ok(())
    }

    /// What stands beside the rooms in the answer to a client that knows nothing.
    pub(crate) async fn add_all_but_rooms(&mut self, response: &mut Response) -> Result<(), SyncError> {
        self.add_account_data(response).await?;
        self.add_to_device(response).await?;
        self.add_presence(response).await?;
        self.sync.add_key_counts(response, &self.snapshot, self.request).await
    }

    async fn add_to_device(&self, response: &mut Response) -> Result<(), SyncError> {
        let start = Position::start();
        let after = self.request.since.as_ref().map_or(&start, SyncToken::to_device);
        let (localpart, device_id) = (self.request.user_id.localpart(), self.request.device_id.as_str());
        let encryption = &self.sync.inner.encryption;
        let all_given = self.request.since.as_ref().is_some_and(|since| since.to_device.is_none());
        if all_given && self.hints.is_some_and(|hints| !hints.to_device) {
            return Ok(());
        }
        let (snapshot, to) = (&self.snapshot, &self.position);
        let (messages, reached) =
            encryption.to_device_page(snapshot, localpart, device_id, after, to, MOST_TO_DEVICE).await?;
        response.next.to_device = (reached != self.position).then_some(reached);
        if !messages.is_empty() {
            let device = (localpart.to_owned(), device_id.to_owned());
            self.sync.inner.given.lock().insert(device);
        }
        response.to_device = messages;
        Ok(())
    }

    /// Adds the rooms in which there is something new. Answers all that the user is in.
    async fn add_rooms(&mut self, response: &mut Response) -> Result<Vec<RoomNumber>, SyncError> {
        let user_rooms = self.user_rooms().await?;
        let mut present = Vec::new();
        for room in user_rooms.iter() {
            if room.membership == Membership::Join {
                present.push(room.number);
            }
            self.add_room(response, room).await?;
        }
        Ok(present)
    }

    pub(crate) async fn add_room(
        &mut self,
        response: &mut Response,
        room: &UserRoom,
    ) -> Result<(), SyncError> {
        let since = self.since().filter(|_| !self.request.full_state).cloned();
        let changed = since.as_ref().is_none_or(|since| !since.includes(room.position));
        match room.membership {
            Membership::Join => {
                let hints = since.as_ref().map(|since| self.sync.inner.news.of_room(room.number, since));
                let has_account_data = !self.room_account_data.is_empty();
                if changed || has_account_data || hints.is_none_or(crate::news::RoomHints::any) {
                    let made = joined::joined(self, room, changed, hints).await?;
                    response.join.extend(made);
                }
            }
            Membership::Invite if changed && !self.blocks_invites().await? => {
                response.invite.extend(crate::others::invited(self, room, "invite_state").await?);
            }
            Membership::Knock if changed => {
                response.knock.extend(crate::others::invited(self, room, "knock_state").await?);
            }
            Membership::Leave | Membership::Ban if changed && !room.forgotten => {
                let is_wanted = since.is_some() || self.request.filter.definition.room.include_leave;
                if is_wanted {
                    response.leave.extend(joined::left(self, room).await?);
                }
            }
            _ => {}
        }
        Ok(())
    }

    async fn add_device_lists(
        &mut self,
        response: &mut Response,
        rooms: &[RoomNumber],
    ) -> Result<(), SyncError> {
        let Some(since) = self.since().cloned() else { return Ok(()) };
        if self.company.is_empty() && self.hints.is_some_and(|hints| !hints.device_lists) {
            return Ok(());
        }
        response.device_lists = crate::device_lists::between(self, &since, rooms).await?;
        Ok(())
    }

    /// The account data of a room that the client does not have yet.
    pub(crate) fn take_account_data(&mut self, room_id: &ruma::RoomId) -> Vec<AccountDataEntry> {
        let filter = &self.request.filter.definition.room.account_data;
        let entries = self.room_account_data.remove(room_id.as_str()).unwrap_or_default();
        entries.into_iter().filter(|entry| room_part_wants(filter, room_id, &entry.event_type)).collect()
    }
}

impl Response {
    pub(crate) fn new(next: SyncToken) -> Self {
        Self {
            next,
            account_data: Vec::new(),
            to_device: Vec::new(),
            presence: Vec::new(),
            join: Vec::new(),
            invite: Vec::new(),
            knock: Vec::new(),
            leave: Vec::new(),
            device_lists: DeviceLists::default(),
            key_counts: KeyCounts::default(),
        }
    }

    /// Whether there is nothing in it that a client would want to be woken for.
    pub(crate) fn is_empty(&self) -> bool {
        self.account_data.is_empty()
            && self.to_device.is_empty()
            && self.presence.is_empty()
            && self.join.is_empty()
            && self.invite.is_empty()
            && self.knock.is_empty()
            && self.leave.is_empty()
            && self.device_lists.is_empty()
    }

    /// The rooms that are in it, of whatever kind, which are then not in it any more.
    pub(crate) fn take_rooms(&mut self) -> Vec<Vec<u8>> {
        let kinds = [&mut self.join, &mut self.invite, &mut self.knock, &mut self.leave];
        kinds.into_iter().flat_map(std::mem::take).collect()
    }

    /// The body.
    pub(crate) fn into_json(self) -> Vec<u8> {
        let rooms = [&self.join, &self.invite, &self.knock, &self.leave];
        let size = rooms.iter().flat_map(|rooms| rooms.iter()).map(Vec::len).sum::<usize>();
        let mut json = Vec::with_capacity(size + 1_024);
        let mut writer = ObjectWriter::begin(&mut json);
        writer.value("next_batch", self.next.to_string());
        if !self.account_data.is_empty() {
            writer.key("account_data");
            write_account_data(writer.json, &self.account_data);
        }
        if !self.to_device.is_empty() {
            writer.key("to_device");
            let mut to_device = ObjectWriter::begin(writer.json);
            to_device.key("events");
            write_list(to_device.json, &self.to_device, |json, message| json.extend_from_slice(message));
            to_device.end();
        }
        if !self.presence.is_empty() {
            writer.key("presence");
            let mut presence = ObjectWriter::begin(writer.json);
            presence.list("events", &self.presence, |json, event| json.extend_from_slice(event));
            presence.end();
        }
        let kinds =
            [("join", &self.join), ("invite", &self.invite), ("knock", &self.knock), ("leave", &self.leave)];
        if kinds.iter().any(|(_, rooms)| !rooms.is_empty()) {
            writer.key("rooms");
            let mut rooms = ObjectWriter::begin(writer.json);
            for (kind, made) in kinds {
                if !made.is_empty() {
                    rooms.key(kind);
                    rooms.json.push(b'{');
                    write_separated(rooms.json, made, |json, room| json.extend_from_slice(room));
                    rooms.json.push(b'}');
                }
            }
            rooms.end();
        }
        if !self.device_lists.is_empty() {
            writer.key("device_lists");
            self.device_lists.write(writer.json);
        }
        writer.value("device_one_time_keys_count", &self.key_counts.one_time_keys);
        writer.value("device_unused_fallback_key_types", &self.key_counts.unused_fallback);
        writer.value("org.matrix.msc2732.device_unused_fallback_key_types", &self.key_counts.unused_fallback);
        writer.end();
        json
    }
}

/// `{"events": […]}` of account data.
pub(crate) fn write_account_data(json: &mut Vec<u8>, entries: &[AccountDataEntry]) {
    let mut writer = ObjectWriter::begin(json);
    writer.key("events");
    write_list(writer.json, entries, |json, entry| {
        let mut event = ObjectWriter::begin(json);
        event.value("type", &entry.event_type);
        event.raw("content", &entry.content);
        event.end();
    });
    writer.end();
}

/// A JSON array.
pub(crate) fn write_list<T>(json: &mut Vec<u8>, items: &[T], write: impl Fn(&mut Vec<u8>, &T)) {
    json.push(b'[');
    write_separated(json, items, write);
    json.push(b']');
}

fn write_separated<T>(json: &mut Vec<u8>, items: &[T], write: impl Fn(&mut Vec<u8>, &T)) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        write(json, item);
    }
}

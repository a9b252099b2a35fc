//! Everything at once, by the endpoints from before `/sync` (C-S API, `GET /initialSync` and `GET /rooms/{roomId}/initialSync`).

use std::{sync::Arc, time::Duration};

use entente_accounts::AccountDataEntry;
use entente_rooms::{
    Direction, EventFilter, Membership, ObjectWriter, Reader, RoomError, RoomView, Shape, TimelinePlace,
    UserRoom,
    state::{EventNumber, StateRoot},
};
use ruma::{DeviceId, RoomId, UserId};

use crate::{
    StateMode, Sync, SyncError, SyncRequest, SyncToken,
    response::{Making, Response, write_list},
};

/// An answer has at most about this many bytes.
const MOST_BYTES: usize = 128 * 1024 * 1024;

/// A room as its first view shows it.
struct FirstView<'a> {
    view: &'a RoomView,
    reader: Reader<'a>,
    /// Behind the last event that is shown.
    end: TimelinePlace,
    state: StateRoot,
    membership: Option<Membership>,
    account_data: Vec<AccountDataEntry>,
}

impl Sync {
    /// What a user sees of everything, with the newest `limit` messages of each room; with `archived` also of rooms that they
    /// left. The body of the answer.
    pub async fn initial_sync(
        &self,
        reader: Reader<'_>,
        limit: usize,
        archived: bool,
    ) -> Result<Vec<u8>, SyncError> {
        let inner = &self.inner;
        let _place = inner.at_once.acquire().await.map_err(|_| SyncError::closed())?;
        let request = whole(reader.user_id, reader.device_id);
        let redactions = inner.rooms.redactions();
        let snapshot = inner.store.snapshot().await?;
        let position = snapshot.position().await?;
        inner.news.reached(&position).await?;
        let token = SyncToken::new(position.clone());
        let mut making = Making::new(self, &request, snapshot, position, redactions);
        let mut response = Response::new(token.clone());
        making.add_account_data(&mut response).await?;
        making.add_presence(&mut response).await?;
        let mut rooms = Vec::new();
        for room in making.user_rooms().await?.iter() {
            rooms.extend(first_view(&mut making, room, reader, limit, archived).await?);
            if rooms.iter().map(Vec::len).sum::<usize>() > MOST_BYTES {
                return Err(RoomError::TooLarge(
                    "this is more than one answer holds; /sync gives it in parts",
                )
                .into());
            }
        }
        let mut json = Vec::new();
        let mut writer = ObjectWriter::begin(&mut json);
        writer.value("end", token.to_string());
        writer.key("presence");
        write_list(writer.json, &response.presence, |json, event| json.extend_from_slice(event));
        writer.key("rooms");
        write_list(writer.json, &rooms, |json, room| json.extend_from_slice(room));
        writer.key("account_data");
        write_list(writer.json, &response.account_data, write_entry);
        writer.end();
        Ok(json)
    }

    /// What a user sees of one room, in which they need not be if everybody may read it. The body of the answer.
    pub async fn room_initial_sync(
        &self,
        reader: Reader<'_>,
        room_id: &RoomId,
        limit: usize,
    ) -> Result<Vec<u8>, SyncError> {
        let _place = self.inner.at_once.acquire().await.map_err(|_| SyncError::closed())?;
        let view = &self.inner.rooms.view(room_id).await?;
        let first = FirstView {
            view,
            reader,
            state: view.readable_state(reader.user_id).await?,
            end: view.timeline_end().await?,
            membership: view.membership(reader.user_id).await?,
            account_data: self.inner.accounts.room_account_data(reader.user_id, room_id).await?,
        };
        first.to_json(limit).await
    }
}

fn whole(user_id: &UserId, device_id: &str) -> SyncRequest {
    SyncRequest {
        user_id: user_id.to_owned(),
        device_id: <&DeviceId>::from(device_id).to_owned(),
        since: None,
        timeout: Duration::ZERO,
        full_state: false,
        state_mode: StateMode::Before,
        filter: Arc::default(),
    }
}

/// One of a user's rooms. `None`: it is not shown.
async fn first_view(
    making: &mut Making<'_>,
    room: &UserRoom,
    reader: Reader<'_>,
    limit: usize,
    archived: bool,
) -> Result<Option<Vec<u8>>, SyncError> {
    let view = &making.view(room.number).await?;
    let (end, state) = match room.membership {
        Membership::Join => (view.timeline_end().await?, view.current_state().await?),
        Membership::Invite => return invited(making, view, room).await,
        Membership::Leave | Membership::Ban if archived && room.was_joined && !room.forgotten => {
            let Some(left) = view.event(room.event).await? else { return Ok(None) };
            (TimelinePlace(EventNumber(left.number.0.saturating_add(1))), left.room_state_after())
        }
        _ => return Ok(None),
    };
    let account_data = making.take_account_data(&view.room.room_id);
    let membership = Some(room.membership);
    FirstView { view, reader, end, state, membership, account_data }.to_json(limit).await.map(Some)
}

async fn invited(
    making: &Making<'_>,
    view: &RoomView,
    room: &UserRoom,
) -> Result<Option<Vec<u8>>, SyncError> {
    let Some(own) = view.event(room.event).await? else { return Ok(None) };
    let is_ignored = making.ignored.iter().any(|ignored| *ignored == own.sender.as_str());
    if is_ignored || making.blocks_invites().await? {
        return Ok(None);
    }
    let mut json = Vec::new();
    let mut writer = ObjectWriter::begin(&mut json);
    writer.value("room_id", &view.room.room_id);
    writer.value("membership", room.membership.as_str());
    writer.key("invite");
    view.write_state_event(writer.json, &own, Shape::WithRoom);
    writer.end();
    Ok(Some(json))
}

impl FirstView<'_> {
    async fn to_json(&self, limit: usize) -> Result<Vec<u8>, SyncError> {
        let Self { view, reader, end, .. } = *self;
        let filter = EventFilter::default();
        let page = if limit == 0 {
            Vec::new()
        } else {
            view.timeline(reader.user_id, end, None, Direction::Backward, limit, &filter).await?.events
        };
        let mut messages = view.client_events(reader, &page, Shape::WithRoom).await?;
        messages.reverse();
        let state = view.full_state(self.state).await?;
        let mut json = Vec::new();
        let mut writer = ObjectWriter::begin(&mut json);
        writer.value("room_id", &view.room.room_id);
        if let Some(membership) = self.membership.filter(|membership| *membership != Membership::Knock) {
            writer.value("membership", membership.as_str());
        }
        writer.key("messages");
        let mut chunk = ObjectWriter::begin(writer.json);
        let start = page.last().map_or(end, |oldest| TimelinePlace(oldest.event.number));
        chunk.value("start", start.to_string());
        chunk.value("end", end.to_string());
        chunk.list("chunk", &messages, |json, event| json.extend_from_slice(event));
        chunk.end();
        writer.list("state", &state, |json, event| view.write_state_event(json, event, Shape::WithRoom));
        writer.list("account_data", &self.account_data, write_entry);
        writer.end();
        Ok(json)
    }
}

fn write_entry(json: &mut Vec<u8>, entry: &AccountDataEntry) {
    let mut event = ObjectWriter::begin(json);
    event.value("type", &entry.event_type);
    event.raw("content", &entry.content);
    event.end();
}

//! What happened in a room before this server came in (S-S API, "Backfilling and retrieving missing events").

use entente_rooms::{Chapter, RoomView, VerifiedPdu};
use ruma::{EventId, OwnedServerName, RoomId, ServerName};

use crate::{FederationError, SharedRooms, verification::verify_good};

/// Events that are asked for at once.
const MOST_EVENTS: usize = 100;
/// Servers that are asked before it is given up.
const MOST_SERVERS: usize = 5;
/// The oldest events whose past is looked for.
const OLDEST: usize = 20;
/// Servers that are asked for an event by its time.
const MOST_ASKED_FOR_TIME: usize = 2;
/// So often the past is fetched on the way to it.
const MOST_CHAPTERS: usize = 10;
/// States that are asked for, for the events of one answer.
const MOST_STATES: usize = 5;

impl SharedRooms {
    /// Fetches events from before a room's beginning here, some `wanted` of them. Answers how many came: 0 when there are none, or
    /// nobody who can be asked has them.
    pub async fn fetch_past(&self, room_id: &RoomId, wanted: usize) -> Result<usize, FederationError> {
        let _turn = self.inner.asking.take(room_id.as_str()).await;
        let view = self.inner.rooms.view(room_id).await?;
        let open = view.unknown_before(&view.oldest_events(OLDEST).await?).await?;
        if open.is_empty() {
            return Ok(0);
        }
        for server in self.servers_to_ask(&view).await? {
            let events =
                self.inner.peers.backfill(&server, room_id, &open, wanted.clamp(10, MOST_EVENTS)).await;
            let added = match events {
                Ok(events) => self.add_past(&server, &view, events).await,
                Err(error) => Err(error),
            };
            match added {
                Ok(0) => {}
                Ok(added) => return Ok(added),
                Err(error) => {
                    tracing::info!(%server, %room_id, %error, "a server does not tell of a room's past");
                }
            }
        }
        Ok(0)
    }

    /// Fetches the past of a room up to the event that is closest to a time, as another server knows it; `at` in ms since 1970. Answers
    /// whether it is here now: it may be too far back, or nobody may tell.
    pub async fn fetch_event_at(
        &self,
        room_id: &RoomId,
        at: u64,
        forward: bool,
    ) -> Result<bool, FederationError> {
        let view = self.inner.rooms.view(room_id).await?;
        if view.unknown_before(&view.oldest_events(OLDEST).await?).await?.is_empty() {
            return Ok(false);
        }
        for server in self.servers_to_ask(&view).await?.into_iter().take(MOST_ASKED_FOR_TIME) {
            match self.inner.peers.event_at(&server, room_id, at, forward).await {
                Ok(found) => return self.fetch_up_to(room_id, &found.event_id).await,
                Err(error) => {
                    tracing::debug!(%server, %room_id, %error, "a server finds no event by its time");
                }
            }
        }
        Ok(false)
    }

    async fn fetch_up_to(&self, room_id: &RoomId, event_id: &EventId) -> Result<bool, FederationError> {
        for _ in 0..MOST_CHAPTERS {
            let view = self.inner.rooms.view(room_id).await?;
            if view.event_by_id(event_id).await?.is_some_and(|event| event.is_shown()) {
                return Ok(true);
            }
            if self.fetch_past(room_id, MOST_EVENTS).await? == 0 {
                break;
            }
        }
        Ok(false)
    }

    async fn add_past(
        &self,
        server: &ServerName,
        view: &RoomView,
        events: Vec<ruma::CanonicalJsonObject>,
    ) -> Result<usize, FederationError> {
        let mut events = verify_good(&*self.inner.keys, &view.room.rules, events).await?;
        events.truncate(2 * MOST_EVENTS);
        events.sort_by_key(|event| event.depth);
        let told = self.states_of(server, view, &events).await?;
        Ok(self.inner.rooms.add_history(&view.room.room_id, &Chapter { events, told }).await?)
    }

    /// The states before those events of which not everything before them is at hand.
    async fn states_of(
        &self,
        server: &ServerName,
        view: &RoomView,
        events: &[VerifiedPdu],
    ) -> Result<Vec<(ruma::OwnedEventId, entente_rooms::ToldState)>, FederationError> {
        let mut told = Vec::new();
        for event in events {
            let at_hand = |id: &ruma::OwnedEventId| events.iter().any(|event| event.event_id == *id);
            let elsewhere: Vec<_> = event.prev_events.iter().filter(|id| !at_hand(id)).cloned().collect();
            let is_open = !view.unplaced_of(&elsewhere).await?.is_empty();
            if is_open && !view.unplaced_of(std::slice::from_ref(&event.event_id)).await?.is_empty() {
                if told.len() >= MOST_STATES {
                    break;
                }
                let state = self.told_state(server, &view.room.room_id, &event.event_id).await?;
                told.push((event.event_id.clone(), state));
            }
        }
        Ok(told)
    }

    /// Servers in a room, those first that are likely to know it from its beginning.
    pub(crate) async fn servers_to_ask(
        &self,
        view: &RoomView,
    ) -> Result<Vec<OwnedServerName>, FederationError> {
        let creator = view.creator().await?;
        let home = creator.as_ref().map(|creator| creator.server_name());
        let mut servers: Vec<OwnedServerName> =
            view.servers().await?.into_iter().filter_map(|server| ServerName::parse(server).ok()).collect();
        servers.sort_by_key(|server| Some(&**server) != home);
        servers.truncate(MOST_SERVERS);
        Ok(servers)
    }
}

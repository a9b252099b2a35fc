//! What happened in a room before this server came in, and while it was out of it (S-S API, "Backfilling and retrieving missing
//! events").

use entente_rooms::{Chapter, Direction, Gap, RoomView, TimelinePlace, VerifiedPdu, state::EventNumber};
use ruma::{EventId, OwnedEventId, OwnedServerName, RoomId, ServerName};

use crate::{FederationError, SharedRooms, verification::verify_good};

/// Events that are asked for at once.
const MOST_EVENTS: usize = 100;
/// Servers that are asked before it is given up.
const MOST_SERVERS: usize = 5;
/// The oldest events whose past is looked for.
pub(crate) const OLDEST: usize = 20;
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
        self.fetch_before(&view, &open, None, wanted).await
    }

    /// Fills the gap that somebody meets who reads `wanted` events back from a place, as far as they would read of it. Answers whether
    /// the room changed. It costs nothing in a room without gaps.
    pub async fn fill_gap(
        &self,
        room_id: &RoomId,
        from: TimelinePlace,
        wanted: usize,
    ) -> Result<bool, FederationError> {
        let mut filled = false;
        for _ in 0..MOST_CHAPTERS {
            let view = self.inner.rooms.view(room_id).await?;
            let Some(gap) = view.gap_before(from).await? else { break };
            let oldest = Some(TimelinePlace(gap.first));
            let known = view.stored_timeline(from, oldest, Direction::Backward, wanted).await?.len();
            if known >= wanted || !self.fetch_into(room_id, gap, wanted - known).await? {
                break;
            }
            filled = true;
        }
        Ok(filled)
    }

    /// Fetches events into a gap. Closes it where everything before those that are known of it is known. Answers whether it did either.
    async fn fetch_into(&self, room_id: &RoomId, gap: Gap, wanted: usize) -> Result<bool, FederationError> {
        let _turn = self.inner.asking.take(room_id.as_str()).await;
        let view = self.inner.rooms.view(room_id).await?;
        let before = TimelinePlace(EventNumber(gap.behind.0.saturating_add(1)));
        // Somebody else may have fetched meanwhile.
        let Some(gap) = view.gap_before(before).await?.filter(|now| now.behind == gap.behind) else {
            return Ok(false);
        };
        let open = view.unknown_before(&view.oldest_of_gap(gap, OLDEST).await?).await?;
        if open.is_empty() {
            self.inner.rooms.close_gap(room_id, gap.behind).await?;
            return Ok(true);
        }
        Ok(self.fetch_before(&view, &open, Some(gap), wanted).await? > 0)
    }

    /// Asks for what came before these events.
    async fn fetch_before(
        &self,
        view: &RoomView,
        open: &[OwnedEventId],
        gap: Option<Gap>,
        wanted: usize,
    ) -> Result<usize, FederationError> {
        let room_id = &view.room.room_id;
        for server in self.servers_to_ask(view).await? {
            let events =
                self.inner.peers.backfill(&server, room_id, open, wanted.clamp(10, MOST_EVENTS)).await;
            let added = match events {
                Ok(events) => self.add_past(&server, view, events, gap).await,
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
        gap: Option<Gap>,
    ) -> Result<usize, FederationError> {
        let mut events = verify_good(&*self.inner.keys, &view.room.rules, events).await?;
        events.truncate(2 * MOST_EVENTS);
        events.sort_by_key(|event| event.depth);
        let told = self.states_of(server, view, &events).await?;
        let chapter = Chapter { events, told, gap: gap.map(|gap| gap.behind) };
        Ok(self.inner.rooms.add_history(&view.room.room_id, &chapter).await?)
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

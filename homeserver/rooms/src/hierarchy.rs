//! Spaces and what is in them (C-S API, "Spaces").

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use entente_storage::Snapshot;
use futures_util::future::{BoxFuture, join_all};
use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{RoomError, RoomSummary, RoomView, Rooms, state::Partition};

/// Rooms that one walk looks at.
const MOST_ROOMS: usize = 2_000;
/// Rooms of one page.
const MOST_ON_PAGE: usize = 100;
/// Rooms of one page, if nobody says.
const DEFAULT_ON_PAGE: usize = 50;
/// How deep a walk goes at the most.
const MOST_DEPTH: usize = 20;
/// An `order` has at most this many characters.
const MOST_ORDER: usize = 50;
/// Rooms about which other servers are asked for one page.
const MOST_ASKED: usize = 30;
/// Servers that are named as ways into a room.
const MOST_VIA: usize = 5;
/// Children of a room of another server.
const MOST_CHILDREN: usize = 2_000;

/// A room of a space, with the rooms in it: as clients and servers get it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HierarchyRoom {
    /// The room.
    #[serde(flatten)]
    pub summary: RoomSummary,
    /// The events by which it names the rooms in it, in their order.
    #[serde(rename = "children_state", default)]
    pub children: Vec<SpaceChild>,
}

/// The event by which a space names a room in it (C-S API, `m.space.child`), stripped.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SpaceChild {
    /// `m.space.child`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// The room.
    pub state_key: String,
    /// Its content.
    pub content: Value,
    /// Who sent it.
    pub sender: String,
    /// When, in ms since 1970.
    pub origin_server_ts: u64,
}

/// A room as another server shows it, with the rooms right below it (S-S API, `GET /hierarchy`).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RoomElsewhere {
    /// The room.
    pub room: HierarchyRoom,
    /// Those of the rooms in it of which that server tells.
    #[serde(default)]
    pub children: Vec<HierarchyRoom>,
    /// Those in it that the asking server's users cannot come into, through whichever server.
    #[serde(default, rename = "inaccessible_children")]
    pub inaccessible: Vec<OwnedRoomId>,
}

/// Asks other servers about rooms in which this one is not.
pub trait RoomsElsewhere: Send + Sync {
    /// A room as one of these servers shows it; `None` if none does. Whether a user may see it is not decided.
    fn room<'a>(
        &'a self,
        room_id: &'a RoomId,
        via: &'a [OwnedServerName],
        suggested_only: bool,
    ) -> BoxFuture<'a, Option<Arc<RoomElsewhere>>>;
}

/// A page of a walk through a space.
#[derive(Clone, Debug, Default)]
pub struct HierarchyPage {
    /// The rooms, each before those in it.
    pub rooms: Vec<HierarchyRoom>,
    /// The token of the next page.
    pub next: Option<String>,
}

/// How to walk.
#[derive(Clone, Debug, Default)]
pub struct HierarchyQuery {
    /// Whether only rooms that are suggested are followed.
    pub suggested_only: bool,
    /// How deep.
    pub max_depth: Option<usize>,
    /// Rooms of one page.
    pub limit: Option<usize>,
    /// The token of a page.
    pub from: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Child {
    via: Option<Vec<String>>,
    order: Option<String>,
    suggested: bool,
}

/// A room that a walk is yet to look at.
struct Waiting {
    room_id: OwnedRoomId,
    level: usize,
    via: Vec<OwnedServerName>,
}

/// What other servers told during a walk.
struct Told<'a> {
    elsewhere: &'a dyn RoomsElsewhere,
    /// Rooms about which was asked.
    asked: HashMap<OwnedRoomId, Option<Arc<RoomElsewhere>>>,
    /// Rooms that are below one that was asked for, as far as was told.
    below: HashMap<OwnedRoomId, HierarchyRoom>,
    /// Rooms into which nobody of this server comes.
    inaccessible: HashSet<OwnedRoomId>,
}

impl Rooms {
    /// Walks through a space, each room before those in it. A room that the reader may not see is left out with all below it; a token
    /// carries all that the next page needs, and is good for the same walk only. Rooms in which this server is not are looked for
    /// elsewhere.
    pub async fn hierarchy(
        &self,
        reader: &UserId,
        root: &RoomId,
        query: &HierarchyQuery,
        elsewhere: &dyn RoomsElsewhere,
    ) -> Result<HierarchyPage, RoomError> {
        let depth = query.max_depth.unwrap_or(MOST_DEPTH).min(MOST_DEPTH);
        let walk = format!("{depth}.{}", u8::from(query.suggested_only));
        let skipped = match query.from.as_deref() {
            None => 0,
            Some(token) => {
                let place = token.strip_prefix(&format!("h{walk}.")).and_then(|place| place.parse().ok());
                place.ok_or_else(|| {
                    RoomError::InvalidParameter(String::from("that is no token of this walk through a space"))
                })?
            }
        };
        let limit = query.limit.unwrap_or(DEFAULT_ON_PAGE).clamp(1, MOST_ON_PAGE);
        let snapshot = self.store().snapshot().await?;
        let mut told =
            Told { elsewhere, asked: HashMap::new(), below: HashMap::new(), inaccessible: HashSet::new() };
        let via = self.ways_to(reader, root).await?;
        let mut waiting = vec![Waiting { room_id: root.to_owned(), level: 0, via }];
        let mut met: HashSet<OwnedRoomId> = HashSet::new();
        let (mut page, mut seen) = (HierarchyPage::default(), 0_usize);
        while let Some(Waiting { room_id, level, via }) = waiting.pop() {
            if !met.insert(room_id.clone()) || met.len() > MOST_ROOMS {
                continue;
            }
            let found = match self.resident_room(&snapshot, &room_id).await? {
                Some(view) => self.seen_room(&view, reader, query).await?,
                None => self.seen_elsewhere(&snapshot, &mut told, reader, query, (&room_id, &via)).await?,
            };
            let Some(room) = found else {
                if level == 0 {
                    return Err(RoomError::Forbidden("you may not see this room"));
                }
                continue;
            };
            if page.rooms.len() == limit {
                page.next = Some(format!("h{walk}.{seen}"));
                break;
            }
            if level < depth {
                let below = self.below(&room, level + 1);
                self.ask_ahead(&snapshot, &mut told, &below, query).await?;
                waiting.extend(below.into_iter().rev());
            }
            seen += 1;
            if seen > skipped {
                page.rooms.push(room);
            }
        }
        Ok(page)
    }

    /// Servers that may know a room about which a user asks without saying where it is.
    pub(crate) async fn ways_to(
        &self,
        reader: &UserId,
        room_id: &RoomId,
    ) -> Result<Vec<OwnedServerName>, RoomError> {
        let mut ways = Vec::new();
        if let Some((_, inviter)) = self.own_membership(room_id, reader).await? {
            ways.push(inviter.server_name().to_owned());
        }
        ways.extend(room_id.server_name().map(ToOwned::to_owned));
        ways.retain(|server| server != self.server_name());
        Ok(ways)
    }

    /// The rooms that a room names as being in it.
    fn below(&self, room: &HierarchyRoom, level: usize) -> Vec<Waiting> {
        let waiting = |child: &SpaceChild| {
            let room_id = OwnedRoomId::try_from(child.state_key.as_str()).ok()?;
            let named = serde_json::from_value::<Child>(child.content.clone()).unwrap_or_default();
            let mut via: Vec<OwnedServerName> =
                named.via.iter().flatten().filter_map(|server| ServerName::parse(server).ok()).collect();
            via.retain(|server| server != self.server_name());
            via.truncate(MOST_VIA);
            Some(Waiting { room_id, level, via })
        };
        room.children.iter().filter_map(waiting).collect()
    }

    /// A room in which this server is.
    async fn resident_room(
        &self,
        snapshot: &Snapshot,
        room_id: &RoomId,
    ) -> Result<Option<RoomView>, RoomError> {
        let number = match self.room(snapshot, room_id).await {
            Ok(room) => room.number,
            Err(RoomError::RoomNotFound) => return Ok(None),
            Err(error) => return Err(error),
        };
        let view = self.view_in(snapshot, number, self.redactions()).await?;
        Ok(if view.is_resident().await? { Some(view) } else { None })
    }

    /// Asks about all rooms at once that a space names and nobody told of.
    async fn ask_ahead(
        &self,
        snapshot: &Snapshot,
        told: &mut Told<'_>,
        rooms: &[Waiting],
        query: &HierarchyQuery,
    ) -> Result<(), RoomError> {
        let elsewhere = told.elsewhere;
        let mut asking = Vec::new();
        for Waiting { room_id, via, .. } in rooms {
            if told.asked.len() + asking.len() >= MOST_ASKED {
                break;
            }
            let is_told = told.asked.contains_key(room_id)
                || told.below.contains_key(room_id)
                || told.inaccessible.contains(room_id);
            if !is_told && !via.is_empty() && self.resident_room(snapshot, room_id).await?.is_none() {
                let answer = elsewhere.room(room_id, via, query.suggested_only);
                asking.push(async move { (room_id.clone(), answer.await) });
            }
        }
        for (room_id, answer) in join_all(asking).await {
            told.note(room_id, answer);
        }
        Ok(())
    }

    /// A room as a walk shows it in which this server is not, if others show it and the reader may see it.
    async fn seen_elsewhere(
        &self,
        snapshot: &Snapshot,
        told: &mut Told<'_>,
        reader: &UserId,
        query: &HierarchyQuery,
        (room_id, via): (&OwnedRoomId, &[OwnedServerName]),
    ) -> Result<Option<HierarchyRoom>, RoomError> {
        if told.inaccessible.contains(room_id) {
            return Ok(None);
        }
        let known = told.below.get(room_id);
        // Of a space that was told with the one above it, it is not known what is in the spaces in it.
        let is_enough = known.is_some_and(|room| !room.is_space() || via.is_empty());
        if !is_enough && !told.asked.contains_key(room_id) && told.asked.len() < MOST_ASKED {
            let answer = told.elsewhere.room(room_id, via, query.suggested_only).await;
            told.note(room_id.clone(), answer);
        }
        let asked = told.asked.get(room_id).and_then(|answer| answer.as_ref()).map(|answer| &answer.room);
        let Some(room) = asked.or(told.below.get(room_id)) else { return Ok(None) };
        if !self.may_see_elsewhere(snapshot, &room.summary, reader).await? {
            return Ok(None);
        }
        let mut room = room.clone();
        room.arrange(query.suggested_only);
        Ok(Some(room))
    }

    /// A room and the rooms right below it, as another server may see them: those that are open to all, and those that its users are
    /// in (S-S API, `GET /hierarchy`).
    pub async fn hierarchy_for(
        &self,
        server: &ServerName,
        view: &RoomView,
        suggested_only: bool,
    ) -> Result<Option<RoomElsewhere>, RoomError> {
        let Some(room) = self.room_for_server(server, view, suggested_only).await? else { return Ok(None) };
        let (mut children, mut inaccessible) = (Vec::new(), Vec::new());
        for child in room.children.iter().take(MOST_ON_PAGE) {
            let Ok(room_id) = OwnedRoomId::try_from(child.state_key.as_str()) else { continue };
            let child = match self.view(&room_id).await {
                Ok(child) if child.is_resident().await? => child,
                Ok(_) | Err(RoomError::RoomNotFound) => continue,
                Err(error) => return Err(error),
            };
            match self.room_for_server(server, &child, suggested_only).await? {
                Some(child) => children.push(child),
                None => inaccessible.push(room_id),
            }
        }
        Ok(Some(RoomElsewhere { room, children, inaccessible }))
    }

    async fn room_for_server(
        &self,
        server: &ServerName,
        view: &RoomView,
        suggested_only: bool,
    ) -> Result<Option<HierarchyRoom>, RoomError> {
        let summary = view.summary().await?;
        // Of rooms with restricted joins the asking server decides which of its users sees them.
        let is_open =
            matches!(summary.join_rule.as_str(), "public" | "knock" | "knock_restricted" | "restricted");
        if !is_open && !summary.world_readable && !view.has_server(server).await? {
            return Ok(None);
        }
        view.with_children(summary, suggested_only).await.map(Some)
    }

    /// A room as a walk shows it, if the reader may see it.
    async fn seen_room(
        &self,
        view: &RoomView,
        reader: &UserId,
        query: &HierarchyQuery,
    ) -> Result<Option<HierarchyRoom>, RoomError> {
        let summary = view.summary().await?;
        if !view.may_see_summary(&summary, Some(reader)).await? {
            return Ok(None);
        }
        view.with_children(summary, query.suggested_only).await.map(Some)
    }
}

impl Told<'_> {
    fn note(&mut self, room_id: OwnedRoomId, answer: Option<Arc<RoomElsewhere>>) {
        if let Some(answer) = &answer {
            let named: HashSet<&str> =
                answer.room.children.iter().map(|child| child.state_key.as_str()).collect();
            for child in &answer.children {
                // A server tells of the rooms in that space, and of no others.
                if named.contains(child.summary.room_id.as_str()) {
                    self.below.entry(child.summary.room_id.clone()).or_insert_with(|| child.clone());
                }
            }
            let shut = answer.inaccessible.iter().filter(|room_id| named.contains(room_id.as_str()));
            self.inaccessible.extend(shut.cloned());
        }
        self.asked.insert(room_id, answer);
    }
}

impl HierarchyRoom {
    fn is_space(&self) -> bool {
        self.summary.room_type.as_deref() == Some("m.space")
    }

    /// Leaves of the children those that count, in their order (C-S API, "Ordering of children within a space").
    fn arrange(&mut self, suggested_only: bool) {
        self.children.truncate(MOST_CHILDREN);
        let is_space = self.is_space();
        let mut arranged = Vec::new();
        for event in self.children.drain(..) {
            let child = serde_json::from_value::<Child>(event.content.clone()).unwrap_or_default();
            let is_child = child.via.as_ref().is_some_and(|via| !via.is_empty());
            if is_space && is_child && (child.suggested || !suggested_only) {
                let order = child.order.filter(|order| is_order(order));
                arranged.push((order.is_none(), order, event.origin_server_ts, event));
            }
        }
        arranged.sort_by(|a, b| (a.0, &a.1, a.2, &a.3.state_key).cmp(&(b.0, &b.1, b.2, &b.3.state_key)));
        self.children = arranged.into_iter().map(|(_, _, _, event)| event).collect();
    }
}

impl RoomView {
    /// A room with the rooms that it names as being in it, if it is a space.
    async fn with_children(
        &self,
        summary: RoomSummary,
        suggested_only: bool,
    ) -> Result<HierarchyRoom, RoomError> {
        let mut room = HierarchyRoom { summary, children: Vec::new() };
        if !room.is_space() {
            return Ok(room);
        }
        for event in self.state_of(self.current_state().await?, Partition::Settings).await? {
            let event_type = event.event_type.to_string();
            if event_type == "m.space.child" {
                room.children.push(SpaceChild {
                    event_type,
                    state_key: event.state_key.clone().unwrap_or_default(),
                    content: event.content_as().unwrap_or_default(),
                    sender: event.sender.to_string(),
                    origin_server_ts: event.origin_server_ts,
                });
            }
        }
        room.arrange(suggested_only);
        Ok(room)
    }
}

fn is_order(order: &str) -> bool {
    order.len() <= MOST_ORDER && order.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
}

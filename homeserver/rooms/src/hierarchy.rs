//! Spaces and what is in them (C-S API, "Spaces").

use std::{collections::HashSet, sync::Arc};

use ruma::{OwnedRoomId, RoomId, ServerName, UserId};
use serde::Deserialize;

use crate::{Event, RoomError, RoomSummary, RoomView, Rooms, state::Partition};

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

/// A room of a space, with the rooms in it.
#[derive(Clone, Debug)]
pub struct HierarchyRoom {
    /// The room.
    pub summary: RoomSummary,
    /// The events by which it names the rooms in it, in their order.
    pub children: Vec<Arc<Event>>,
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

impl Rooms {
    /// Walks through a space, each room before those in it. A room that the reader may not see is left out with all below it; a token
    /// carries all that the next page needs, and is good for the same walk only.
    pub async fn hierarchy(
        &self,
        reader: &UserId,
        root: &RoomId,
        query: &HierarchyQuery,
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
        let redactions = self.redactions();
        let snapshot = self.store().snapshot().await?;
        let mut waiting: Vec<(OwnedRoomId, usize)> = vec![(root.to_owned(), 0)];
        let mut met: HashSet<OwnedRoomId> = HashSet::new();
        let (mut page, mut seen) = (HierarchyPage::default(), 0_usize);
        while let Some((room_id, level)) = waiting.pop() {
            if !met.insert(room_id.clone()) || met.len() > MOST_ROOMS {
                continue;
            }
            let found = match self.room(&snapshot, &room_id).await {
                Ok(room) => {
                    self.seen_room(&self.view_in(&snapshot, room.number, redactions).await?, reader, query)
                        .await?
                }
                Err(RoomError::RoomNotFound) => None,
                Err(error) => return Err(error),
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
                let below = room.children.iter().filter_map(|child| {
                    OwnedRoomId::try_from(child.state_key.as_deref()?)
                        .ok()
                        .map(|room_id| (room_id, level + 1))
                });
                waiting.extend(below.rev());
            }
            seen += 1;
            if seen > skipped {
                page.rooms.push(room);
            }
        }
        Ok(page)
    }

    /// A room and the rooms right below it, as another server may see them: those that are open to all, and those that its users are
    /// in (S-S API, `GET /hierarchy`).
    pub async fn hierarchy_for(
        &self,
        server: &ServerName,
        view: &RoomView,
        suggested_only: bool,
    ) -> Result<Option<(HierarchyRoom, Vec<HierarchyRoom>)>, RoomError> {
        let Some(room) = self.room_for_server(server, view, suggested_only).await? else { return Ok(None) };
        let mut below = Vec::new();
        for child in room.children.iter().take(MOST_ON_PAGE) {
            let Some(room_id) = child.state_key.as_deref().and_then(|id| OwnedRoomId::try_from(id).ok())
            else {
                continue;
            };
            let child = match self.view(&room_id).await {
                Ok(child) if child.is_resident().await? => child,
                Ok(_) | Err(RoomError::RoomNotFound) => continue,
                Err(error) => return Err(error),
            };
            below.extend(self.room_for_server(server, &child, suggested_only).await?);
        }
        Ok(Some((room, below)))
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
        let is_space = summary.room_type.as_deref() == Some("m.space");
        let children = if is_space { view.children(suggested_only).await? } else { Vec::new() };
        Ok(Some(HierarchyRoom { summary, children }))
    }

    /// A room as a walk shows it, if the reader may see it.
    async fn seen_room(
        &self,
        view: &RoomView,
        reader: &UserId,
        query: &HierarchyQuery,
    ) -> Result<Option<HierarchyRoom>, RoomError> {
        if !view.is_resident().await? {
            return Ok(None);
        }
        let summary = view.summary().await?;
        if !view.may_see_summary(&summary, Some(reader)).await? {
            return Ok(None);
        }
        let children = if summary.room_type.as_deref() == Some("m.space") {
            view.children(query.suggested_only).await?
        } else {
            Vec::new()
        };
        Ok(Some(HierarchyRoom { summary, children }))
    }
}

impl RoomView {
    /// The events by which a space names the rooms in it, in their order (C-S API, "Ordering of children within a space").
    pub async fn children(&self, suggested_only: bool) -> Result<Vec<Arc<Event>>, RoomError> {
        let mut children = Vec::new();
        for event in self.state_of(self.current_state().await?, Partition::Settings).await? {
            if event.event_type.to_string() != "m.space.child" {
                continue;
            }
            let child: Child = event.content_as().unwrap_or_default();
            let is_child = child.via.as_ref().is_some_and(|via| !via.is_empty());
            if is_child && (child.suggested || !suggested_only) {
                let order = child.order.filter(|order| is_order(order));
                children.push((order.is_none(), order, event.origin_server_ts, event));
            }
        }
        children.sort_by(|a, b| (a.0, &a.1, a.2, &a.3.state_key).cmp(&(b.0, &b.1, b.2, &b.3.state_key)));
        Ok(children.into_iter().map(|(_, _, _, event)| event).collect())
    }
}

fn is_order(order: &str) -> bool {
    order.len() <= MOST_ORDER && order.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
}

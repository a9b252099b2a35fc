//! What other servers may read of a room, and which they are.

mod history;
mod state;

use std::{collections::HashMap, sync::Arc};

use ruma::{CanonicalJsonObject, OwnedUserId, ServerName, UserId, canonical_json::redact_in_place};

pub use self::{history::Gap, state::StateIds};
use crate::{
    Event, Membership, RoomError, RoomView, rows,
    server_acl::server_is_allowed,
    state::{EventNumber, StateKeyId, StateRoot, get_many},
    visibility::HistoryVisibility,
};

/// So many users of one server are looked for in the states of a room's past.
const MOST_USERS: usize = 1_000;

impl RoomView {
    /// The other servers with users in the room.
    pub async fn servers(&self) -> Result<Vec<String>, RoomError> {
        if self.head().await?.joined_elsewhere == 0 {
            return Ok(Vec::new());
        }
        let rows = self.snapshot.scan_all(rows::SERVERS.scan((self.room.number.0,))).await?;
        Ok(rows.into_iter().map(|((_, server), _)| server).collect())
    }

    /// Whether another server has users in the room.
    pub async fn has_server(&self, server: &ServerName) -> Result<bool, RoomError> {
        let key = (self.room.number.0, server.as_str());
        Ok(self.snapshot.get(&rows::SERVERS, key).await?.is_some())
    }

    /// How many users of another server are in the room.
    pub async fn users_of(&self, server: &ServerName) -> Result<u64, RoomError> {
        let key = (self.room.number.0, server.as_str());
        Ok(self.snapshot.get(&rows::SERVERS, key).await?.unwrap_or_default())
    }

    /// Refuses a server that has no users in the room.
    pub async fn require_server(&self, server: &ServerName) -> Result<(), RoomError> {
        if self.has_server(server).await? {
            Ok(())
        } else {
            Err(RoomError::Forbidden("your server is not in this room"))
        }
    }

    /// Refuses a server that the room's access control shuts out (C-S API, "Server Access Control Lists").
    pub async fn require_allowed(&self, server: &ServerName) -> Result<(), RoomError> {
        let list = self.state_event(self.current_state().await?, "m.room.server_acl", "").await?;
        let is_allowed = list.is_none_or(|list| server_is_allowed(list.content(), server));
        if is_allowed {
            Ok(())
        } else {
            Err(RoomError::Forbidden("your server may not take part in this room"))
        }
    }

    /// Who made the room.
    pub async fn creator(&self) -> Result<Option<OwnedUserId>, RoomError> {
        let create = self.state_event(self.current_state().await?, "m.room.create", "").await?;
        Ok(create.map(|create| create.sender.clone()))
    }

    /// The events as a server may read them: those that its users may not see are redacted (S-S API, "Backfilling and retrieving
    /// missing events"; C-S API, "Room History Visibility").
    pub async fn shown_to(
        &self,
        server: &ServerName,
        events: &[Arc<Event>],
    ) -> Result<Vec<Vec<u8>>, RoomError> {
        let mut past =
            ServersPast { view: self, server, visibility: None, users: None, known: HashMap::new() };
        let mut shown = Vec::with_capacity(events.len());
        for event in events {
            if event.sender.server_name() == server || past.may_see(event).await? {
                shown.push(event.json().to_vec());
                continue;
            }
            let damaged = |error: String| RoomError::Internal(format!("a stored event: {error}"));
            let mut object: CanonicalJsonObject =
                serde_json::from_slice(event.json()).map_err(|error| damaged(error.to_string()))?;
            redact_in_place(&mut object, &self.room.rules.redaction, None)
                .map_err(|error| damaged(error.to_string()))?;
            shown.push(serde_json::to_vec(&object).map_err(|error| damaged(error.to_string()))?);
        }
        Ok(shown)
    }

    /// Whether a server may see an event.
    pub async fn may_be_shown(&self, server: &ServerName, event: &Event) -> Result<bool, RoomError> {
        let mut past =
            ServersPast { view: self, server, visibility: None, users: None, known: HashMap::new() };
        Ok(event.sender.server_name() == server || past.may_see(event).await?)
    }
}

/// Finds what a server's users might see at the states of a room; each state is looked at once.
struct ServersPast<'a> {
    view: &'a RoomView,
    server: &'a ServerName,
    /// The key of the history visibility, if the room ever had one.
    visibility: Option<Vec<StateKeyId>>,
    /// The keys of the memberships of its users.
    users: Option<Vec<StateKeyId>>,
    known: HashMap<StateRoot, bool>,
}

impl ServersPast<'_> {
    async fn may_see(&mut self, event: &Event) -> Result<bool, RoomError> {
        if !event.is_shown() {
            return Ok(false);
        }
        let root = event.state_after();
        if let Some(known) = self.known.get(&root) {
            return Ok(*known);
        }
        let may_see = match self.visibility_at(root).await? {
            HistoryVisibility::WorldReadable | HistoryVisibility::Shared => true,
            HistoryVisibility::Invited => {
                self.has_member(root, &[Membership::Join, Membership::Invite]).await?
            }
            HistoryVisibility::Joined => self.has_member(root, &[Membership::Join]).await?,
        };
        self.known.insert(root, may_see);
        Ok(may_see)
    }

    async fn visibility_at(&mut self, root: StateRoot) -> Result<HistoryVisibility, RoomError> {
        if self.visibility.is_none() {
            let ids = self.view.state_key_ids(&[("m.room.history_visibility", "")]).await?;
            self.visibility = Some(ids.into_iter().flatten().collect());
        }
        let event = self.events(root, self.visibility.as_deref().unwrap_or_default()).await?.pop();
        Ok(HistoryVisibility::of(event.as_deref()))
    }

    /// Whether one of the server's users had one of these memberships.
    async fn has_member(&mut self, root: StateRoot, wanted: &[Membership]) -> Result<bool, RoomError> {
        if self.users.is_none() {
            self.users = Some(self.users_of_server().await?);
        }
        let events = self.events(root, self.users.as_deref().unwrap_or_default()).await?;
        Ok(events
            .iter()
            .any(|event| event.membership().is_some_and(|membership| wanted.contains(&membership))))
    }

    async fn users_of_server(&self) -> Result<Vec<StateKeyId>, RoomError> {
        let rows = self.view.snapshot.scan_all(rows::MEMBERS.scan((self.view.room.number.0,))).await?;
        let users: Vec<String> = rows
            .into_iter()
            .map(|((_, user_id), _)| user_id)
            .filter(|user_id| {
                <&UserId>::try_from(user_id.as_str())
                    .is_ok_and(|user_id| user_id.server_name() == self.server)
            })
            .take(MOST_USERS)
            .collect();
        let keys: Vec<(&str, &str)> =
            users.iter().map(|user_id| ("m.room.member", user_id.as_str())).collect();
        Ok(self.view.state_key_ids(&keys).await?.into_iter().flatten().collect())
    }

    async fn events(&self, root: StateRoot, keys: &[StateKeyId]) -> Result<Vec<Arc<Event>>, RoomError> {
        let reader = self.view.rooms.inner.states.reader(&self.view.snapshot, self.view.room.number);
        let numbers = get_many(&reader, root, keys).await?;
        let numbers: Vec<EventNumber> = numbers.into_iter().flatten().collect();
        self.view.events(&numbers).await
    }
}

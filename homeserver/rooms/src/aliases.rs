use entente_storage::Transaction;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomAliasId, OwnedRoomId, RoomAliasId, RoomId, UserId,
    events::{StateEventType, TimelineEventType},
};

use crate::{
    Draft, RoomError, RoomNumber, RoomView, Rooms,
    rows::{self, AliasRow},
};

/// A room has at most this many aliases on this server.
const MOST_ALIASES: usize = 1_000;

impl Rooms {
    /// The room behind an alias of this server.
    pub async fn resolve_alias(&self, alias: &RoomAliasId) -> Result<OwnedRoomId, RoomError> {
        if alias.server_name() != self.server_name() {
            return Err(RoomError::NotFound(
                "the alias is another server's, and other servers cannot be asked yet",
            ));
        }
        let row = self.store().snapshot().await?.get(&rows::ALIASES, alias.as_str()).await?;
        let row = row.ok_or(RoomError::NotFound("there is no room with that alias"))?;
        row.room_id.try_into().map_err(|_| RoomError::Internal(String::from("a stored room id")))
    }

    /// Gives a room an alias.
    pub async fn create_alias(
        &self,
        alias: &RoomAliasId,
        room_id: &RoomId,
        creator: &UserId,
    ) -> Result<(), RoomError> {
        if alias.server_name() != self.server_name() {
            return Err(RoomError::InvalidParameter(format!("aliases here end in :{}", self.server_name())));
        }
        self.store()
            .run(async |snapshot| {
                let room = self.room(&snapshot, room_id).await?;
                if snapshot.get(&rows::ALIASES, alias.as_str()).await?.is_some() {
                    return Err(RoomError::AliasTaken(alias.to_owned()));
                }
                let scan = rows::ROOM_ALIASES.scan((room.number.0,)).limit(MOST_ALIASES);
                if snapshot.scan(&scan).await?.rows.len() >= MOST_ALIASES {
                    return Err(RoomError::TooLarge("this room has as many aliases as a room can have"));
                }
                let row = AliasRow {
                    room_id: room_id.to_string(),
                    room: room.number.0,
                    creator: creator.to_string(),
                };
                let mut transaction = Transaction::new();
                transaction.check_absent(&rows::ALIASES, alias.as_str());
                transaction.put(&rows::ALIASES, alias.as_str(), &row);
                transaction.put(&rows::ROOM_ALIASES, (room.number.0, alias.as_str()), &());
                Ok((transaction, ()))
            })
            .await?;
        Ok(())
    }

    /// Removes an alias: its creator may, who may change the room's canonical alias, and who `may_always`: administrators of the server,
    /// and application services in their namespaces. If it stood in the canonical alias of the room and the user may change that, it goes there
    /// too.
    pub async fn delete_alias(
        &self,
        alias: &RoomAliasId,
        user_id: &UserId,
        may_always: bool,
    ) -> Result<(), RoomError> {
        let (room_id, _) = self
            .store()
            .run(async |snapshot| {
                let row = snapshot.get(&rows::ALIASES, alias.as_str()).await?;
                let row = row.ok_or(RoomError::NotFound("there is no room with that alias"))?;
                let room_id: OwnedRoomId = row
                    .room_id
                    .as_str()
                    .try_into()
                    .map_err(|_| RoomError::Internal(String::from("a stored room id")))?;
                if row.creator != user_id.as_str() && !may_always {
                    let view = self.view_in(&snapshot, RoomNumber(row.room), self.redactions()).await?;
                    let powers = view.powers().await?;
                    let event_type = TimelineEventType::RoomCanonicalAlias;
                    view.require_joined(user_id).await?;
                    if !powers.may_send(user_id, &event_type, Some("")) {
                        return Err(RoomError::Forbidden("you may not remove this alias"));
                    }
                }
                let mut transaction = Transaction::new();
                transaction.check_unchanged(&rows::ALIASES, alias.as_str(), Some(&row));
                transaction.delete(&rows::ALIASES, alias.as_str());
                transaction.delete(&rows::ROOM_ALIASES, (row.room, alias.as_str()));
                Ok((transaction, room_id))
            })
            .await?;
        match self.remove_from_canonical(&room_id, alias, user_id).await {
            // That the user may not change the room's state does not keep the alias.
            Ok(()) | Err(RoomError::Unauthorized(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn remove_from_canonical(
        &self,
        room_id: &RoomId,
        alias: &RoomAliasId,
        user_id: &UserId,
    ) -> Result<(), RoomError> {
        self.change_room(room_id, async |mut composer| {
            let current = composer.current(&StateEventType::RoomCanonicalAlias, "").await?;
            let Some(content) = current.and_then(|event| event.content_as::<CanonicalJsonObject>()) else {
                return Ok((composer, ()));
            };
            let mut changed = content.clone();
            if changed.get("alias").and_then(CanonicalJsonValue::as_str) == Some(alias.as_str()) {
                changed.remove("alias");
            }
            if let Some(CanonicalJsonValue::Array(alternatives)) = changed.get_mut("alt_aliases") {
                alternatives.retain(|other| other.as_str() != Some(alias.as_str()));
            }
            if changed != content {
                let draft = Draft::state(user_id, StateEventType::RoomCanonicalAlias, "", changed);
                composer.append(draft).await?;
            }
            Ok((composer, ()))
        })
        .await
    }

    /// Refuses a canonical alias that does not lead to its room (C-S API, `m.room.canonical_alias`). Those that the room has
    /// already are not looked at again.
    pub(crate) async fn check_canonical_aliases(
        &self,
        room_id: &RoomId,
        draft: &Draft,
    ) -> Result<(), RoomError> {
        let view = self.view(room_id).await?;
        let state = view.current_state().await?;
        let current = view.state_event(state, "m.room.canonical_alias", "").await?;
        let current = current.and_then(|event| event.content_as::<CanonicalJsonObject>()).unwrap_or_default();
        let known = aliases_in(&current);
        for alias in aliases_in(&draft.content) {
            if known.contains(&alias) {
                continue;
            }
            let parsed: OwnedRoomAliasId = alias
                .parse()
                .map_err(|_| RoomError::InvalidParameter(format!("{alias} is not a room alias")))?;
            match self.resolve_alias(&parsed).await {
                Ok(leads_to) if leads_to == room_id => {}
                Ok(_) | Err(RoomError::NotFound(_)) => return Err(RoomError::BadAlias(alias)),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl RoomView {
    /// The aliases that this server has for the room.
    pub async fn aliases(&self) -> Result<Vec<OwnedRoomAliasId>, RoomError> {
        let rows = self.snapshot.scan_all(rows::ROOM_ALIASES.scan((self.room.number.0,))).await?;
        Ok(rows.into_iter().filter_map(|((_, alias), ())| alias.try_into().ok()).collect())
    }
}

fn aliases_in(content: &CanonicalJsonObject) -> Vec<String> {
    let main = content.get("alias").and_then(CanonicalJsonValue::as_str);
    let alternatives = content.get("alt_aliases").and_then(CanonicalJsonValue::as_array).unwrap_or_default();
    let alternatives = alternatives.iter().filter_map(CanonicalJsonValue::as_str);
    main.into_iter().chain(alternatives).map(str::to_owned).collect()
}

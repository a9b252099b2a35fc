//! Joining rooms over federation: what a server in the room prepares and answers, and what the joining one makes of it (S-S API,
//! "Joining Rooms").

use std::sync::Arc;

use entente_storage::Bytes;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedEventId, OwnedRoomId, RoomId, RoomVersionId,
    UserId,
    events::StateEventType,
    room_version_rules::{EventIdFormatVersion, RoomVersionRules},
};

use super::{ToldState, VerifiedPdu};
use crate::{Draft, Profile, RoomError, Rooms, compose::sign, state::Partition};

/// A room as the server that let a user in told of it. Everything in it was verified.
#[derive(Clone, Debug)]
pub struct JoinedRoom {
    /// Which room.
    pub room_id: OwnedRoomId,
    /// Its version.
    pub version: RoomVersionId,
    /// The state before the join.
    pub told: ToldState,
    /// The join.
    pub event: VerifiedPdu,
}

/// What the server of somebody who joins is told of the room.
#[derive(Clone, Debug)]
pub struct JoinAnswer {
    /// The state before the join: canonical JSON of each event.
    pub state: Vec<Bytes>,
    /// What authorises it, and the join.
    pub auth_chain: Vec<Bytes>,
}

impl Rooms {
    /// A membership event for a user of another server to sign, and the room's version (S-S API, `GET /make_join`).
    pub async fn membership_template(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        membership: &str,
    ) -> Result<(RoomVersionId, CanonicalJsonObject), RoomError> {
        let (event_type, state_key) = (StateEventType::RoomMember, user_id.as_str());
        let content = Profile::default().member_content(membership, None);
        let draft = Draft::state(user_id, event_type, state_key, content);
        self.change_room(room_id, async |mut composer| {
            let mut draft = draft.clone();
            if membership == "join"
                && let Some(authoriser) = composer.restricted_join(user_id).await?
            {
                let name = String::from("join_authorised_via_users_server");
                draft.content.insert(name, CanonicalJsonValue::String(authoriser.to_string()));
            }
            let template = composer.template(&draft).await?;
            let version = composer.view.room.version.clone();
            Ok((composer, (version, template)))
        })
        .await
    }

    /// Signs an event that another server prepared for one of this server's users. Answers it, and its id.
    pub fn sign_template(
        &self,
        mut template: CanonicalJsonObject,
        rules: &RoomVersionRules,
    ) -> Result<(CanonicalJsonObject, OwnedEventId), RoomError> {
        let environment = &self.inner.environment;
        let now = environment.now().millis();
        template.insert(
            String::from("origin_server_ts"),
            CanonicalJsonValue::Integer(now.try_into().unwrap_or(ruma::Int::MAX)),
        );
        for field in ["signatures", "hashes", "unsigned", "event_id"] {
            template.remove(field);
        }
        if rules.event_id_format == EventIdFormatVersion::V1 {
            let event_id = format!("${}:{}", environment.randomness().alphanumeric(18), self.server_name());
            template.insert(String::from("event_id"), CanonicalJsonValue::String(event_id));
        }
        let (_, event_id) = sign(&mut template, rules, &self.inner.signing_keys)?;
        Ok((template, event_id))
    }

    /// Adds this server's signature to a join that one of its users authorises, if that user may (room version 8, "Restricted
    /// rooms"). A join that nobody here authorises stays as it is.
    pub async fn cosign_join(
        &self,
        room_id: &RoomId,
        event: &mut CanonicalJsonObject,
    ) -> Result<(), RoomError> {
        let text = |object: &CanonicalJsonObject, field: &str| {
            object.get(field).and_then(|text| text.as_str()).map(str::to_owned)
        };
        let content = event.get("content").and_then(|content| content.as_object());
        let authoriser = content.and_then(|content| text(content, "join_authorised_via_users_server"));
        if authoriser.is_none_or(|authoriser| self.local(&authoriser).is_none()) {
            return Ok(());
        }
        let sender = text(event, "sender").and_then(|sender| UserId::parse(sender).ok());
        let sender = sender.ok_or_else(|| RoomError::BadEvent(String::from("the event has no sender")))?;
        let rules = self
            .change_room(room_id, async |mut composer| {
                composer.restricted_join(&sender).await?;
                let rules = composer.view.room.rules.clone();
                Ok((composer, rules))
            })
            .await?;
        self.cosign(event, &rules)
    }

    /// Adds this server's signature to another server's event.
    pub fn cosign(&self, event: &mut CanonicalJsonObject, rules: &RoomVersionRules) -> Result<(), RoomError> {
        self.inner.signing_keys.cosign(event, &rules.redaction)
    }

    /// What is told to the server of somebody who joined by this event (S-S API, `PUT /send_join`).
    pub async fn join_answer(
        &self,
        room_id: &RoomId,
        event_id: &EventId,
        omits_members: bool,
    ) -> Result<JoinAnswer, RoomError> {
        let view = self.view(room_id).await?;
        let event = view.event_by_id(event_id).await?.ok_or(RoomError::EventNotFound)?;
        let state = if omits_members {
            view.state_of(event.state_before(), Partition::Settings).await?
        } else {
            view.full_state(event.state_before()).await?
        };
        let mut numbers: Vec<_> = state.iter().map(|event| event.state_number()).collect();
        numbers.push(event.state_number());
        let mut auth_chain = view.auth_chain(&numbers).await?;
        auth_chain.retain(|of_chain| of_chain.event_id != event.event_id);
        let json = |events: &[Arc<crate::Event>]| events.iter().map(|event| event.json().clone()).collect();
        Ok(JoinAnswer { state: json(&state), auth_chain: json(&auth_chain) })
    }

    /// Takes over a room into which another server let one of this server's users: all of it in one transaction.
    pub async fn take_over(&self, joined: &JoinedRoom) -> Result<(), RoomError> {
        self.change_or_begin(&joined.room_id, &joined.version, async |mut composer| {
            composer.take_over(joined).await?;
            Ok((composer, ()))
        })
        .await
    }
}

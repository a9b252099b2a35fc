use std::sync::Arc;

use entente_storage::{LogPosition, Transaction, value::Stamped};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomId, OwnedUserId, RoomId, UserId,
    events::StateEventType, state_res::events::RoomPowerLevelsIntField,
};
use serde::Deserialize;

use crate::{
    Change, Draft, Event, Membership, Profile, RoomError, RoomView, Rooms,
    compose::Composer,
    powers::Powers,
    rows::{self, UserRoomRow},
};

/// Rooms whose members may join are looked through up to this many.
const MOST_ALLOWED_ROOMS: usize = 100;
/// Members among whom somebody is sought who may let others in.
const MOST_AUTHORISERS: usize = 1_000;

/// What somebody does with a membership, their own or another's.
#[derive(Clone, Debug)]
pub struct MembershipRequest {
    /// Who does it.
    pub sender: OwnedUserId,
    /// Whose membership it is.
    pub target: OwnedUserId,
    /// How the target appears.
    pub profile: Profile,
    /// Why.
    pub reason: Option<String>,
    /// More for the content of the event.
    pub extra: CanonicalJsonObject,
}

impl MembershipRequest {
    /// Somebody's own membership.
    pub fn own(user_id: &UserId, profile: Profile, reason: Option<String>) -> Self {
        Self::others(user_id, user_id, profile, reason)
    }

    /// Somebody else's membership.
    pub fn others(sender: &UserId, target: &UserId, profile: Profile, reason: Option<String>) -> Self {
        let (sender, target) = (sender.to_owned(), target.to_owned());
        Self { sender, target, profile, reason, extra: CanonicalJsonObject::new() }
    }

    pub(crate) fn draft(&self, membership: &str) -> Draft {
        let mut content = self.profile.member_content(membership, self.reason.as_deref());
        content.extend(self.extra.clone());
        Draft::state(&self.sender, StateEventType::RoomMember, self.target.as_str(), content)
    }
}

impl Rooms {
    /// Joins a room. Who is in it already stays as they are.
    pub async fn join(&self, room_id: &RoomId, request: &MembershipRequest) -> Result<(), RoomError> {
        self.change_room(room_id, async |mut composer| {
            let current = composer.member(&request.target).await?;
            let membership = current.as_deref().and_then(Event::membership);
            if membership == Some(Membership::Join) {
                return Ok((composer, ()));
            }
            let mut draft = request.draft("join");
            if membership != Some(Membership::Invite) {
                let authoriser = composer.restricted_join(&request.target).await?;
                if let Some(authoriser) = authoriser {
                    let name = String::from("join_authorised_via_users_server");
                    draft.content.insert(name, CanonicalJsonValue::String(authoriser.to_string()));
                }
            }
            composer.append(draft).await?;
            Ok((composer, ()))
        })
        .await
    }

    /// Invites somebody.
    pub async fn invite(&self, room_id: &RoomId, request: &MembershipRequest) -> Result<(), RoomError> {
        if self.localpart(&request.target).is_none() {
            return Err(RoomError::InvalidParameter(format!(
                "{} is on another server, and users of other servers cannot be invited yet",
                request.target
            )));
        }
        self.change_room(room_id, async |mut composer| {
            let current = composer.member(&request.target).await?;
            if current.as_deref().and_then(Event::membership) == Some(Membership::Join) {
                composer.require_sender(&request.sender).await?;
                return Err(RoomError::Forbidden("that user is in the room already"));
            }
            composer.append(request.draft("invite")).await?;
            Ok((composer, ()))
        })
        .await
    }

    /// Asks to be let in.
    pub async fn knock(&self, room_id: &RoomId, request: &MembershipRequest) -> Result<(), RoomError> {
        self.change_room(room_id, async |mut composer| {
            composer.append(request.draft("knock")).await?;
            Ok((composer, ()))
        })
        .await
    }

    /// Leaves a room, declines an invite, or takes back a knock.
    pub async fn leave(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        reason: Option<&str>,
    ) -> Result<(), RoomError> {
        let request = MembershipRequest::own(user_id, Profile::default(), reason.map(str::to_owned));
        self.change_room(room_id, async |mut composer| {
            let current = composer.member(user_id).await?;
            match current.as_deref().and_then(Event::membership) {
                Some(Membership::Join | Membership::Invite | Membership::Knock) => {}
                Some(Membership::Leave) => return Ok((composer, ())),
                _ => return Err(RoomError::Forbidden("you are not in this room")),
            }
            composer.append(request.draft("leave")).await?;
            Ok((composer, ()))
        })
        .await
    }

    /// Puts somebody out of a room.
    pub async fn kick(&self, room_id: &RoomId, request: &MembershipRequest) -> Result<(), RoomError> {
        self.change_others(room_id, request, "leave", |membership| match membership {
            Some(Membership::Join | Membership::Invite | Membership::Knock) => Ok(()),
            _ => Err(RoomError::Forbidden("that user is not in the room")),
        })
        .await
    }

    /// Puts somebody out of a room for good.
    pub async fn ban(&self, room_id: &RoomId, request: &MembershipRequest) -> Result<(), RoomError> {
        self.change_others(room_id, request, "ban", |_| Ok(())).await
    }

    /// Lifts a ban.
    pub async fn unban(&self, room_id: &RoomId, request: &MembershipRequest) -> Result<(), RoomError> {
        self.change_others(room_id, request, "leave", |membership| match membership {
            Some(Membership::Ban) => Ok(()),
            _ => Err(RoomError::Forbidden("that user is not banned from the room")),
        })
        .await
    }

    async fn change_others(
        &self,
        room_id: &RoomId,
        request: &MembershipRequest,
        membership: &str,
        check: impl Fn(Option<Membership>) -> Result<(), RoomError>,
    ) -> Result<(), RoomError> {
        let check = &check;
        self.change_room(room_id, async |mut composer| {
            composer.require_sender(&request.sender).await?;
            let current = composer.member(&request.target).await?;
            check(current.as_deref().and_then(Event::membership))?;
            composer.append(request.draft(membership)).await?;
            Ok((composer, ()))
        })
        .await
    }

    /// Takes a room that a user has left out of what they see of their past.
    pub async fn forget(&self, room_id: &RoomId, user_id: &UserId) -> Result<(), RoomError> {
        let localpart = self.localpart(user_id).ok_or(RoomError::RoomNotFound)?;
        self.store()
            .run(async |snapshot| {
                let room = self.room(&snapshot, room_id).await?;
                let key = (localpart, room.number.0);
                let row = snapshot.get(&rows::USER_ROOMS, key).await?.ok_or(RoomError::RoomNotFound)?;
                if !matches!(row.value.membership, Membership::Leave | Membership::Ban) {
                    return Err(RoomError::BadState("a room can be forgotten once it was left"));
                }
                let mut transaction = Transaction::new();
                if !row.value.forgotten {
                    transaction.check_unchanged(&rows::USER_ROOMS, key, Some(&row));
                    let value = UserRoomRow { forgotten: true, ..row.value };
                    let row = Stamped { position: LogPosition::AT_COMMIT, value };
                    transaction.put(&rows::USER_ROOMS, key, &row);
                    let change = Change::Forgotten { localpart: localpart.to_owned(), room: room.number.0 };
                    change.log_in(&mut transaction);
                }
                Ok((transaction, ()))
            })
            .await?;
        Ok(())
    }

    /// Shows a user's new profile in a room that they are in.
    pub async fn update_member_profile(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        profile: &Profile,
    ) -> Result<(), RoomError> {
        let request = MembershipRequest::own(user_id, profile.clone(), None);
        self.change_room(room_id, async |mut composer| {
            let Some(current) = composer.member(user_id).await? else { return Ok((composer, ())) };
            if current.membership() != Some(Membership::Join) || Profile::of(&current) == *profile {
                return Ok((composer, ()));
            }
            composer.append(request.draft("join")).await?;
            Ok((composer, ()))
        })
        .await
    }

    /// The rooms in which a local user has this membership.
    pub async fn rooms_of(
        &self,
        user_id: &UserId,
        membership: Membership,
    ) -> Result<Vec<OwnedRoomId>, RoomError> {
        let localpart = self.localpart(user_id).ok_or(RoomError::RoomNotFound)?;
        let snapshot = self.store().snapshot().await?;
        let mut room_ids = Vec::new();
        for ((_, number), row) in snapshot.scan_all(rows::USER_ROOMS.scan((localpart,))).await? {
            if row.value.membership == membership {
                room_ids
                    .push(self.room_by_number(&snapshot, crate::RoomNumber(number)).await?.room_id.clone());
            }
        }
        Ok(room_ids)
    }
}

impl Profile {
    /// How a membership event shows a user.
    pub fn of(event: &Event) -> Self {
        #[derive(Default, Deserialize)]
        struct Content {
            displayname: Option<String>,
            avatar_url: Option<String>,
        }
        let Content { displayname, avatar_url } = event.content_as().unwrap_or_default();
        Self { displayname, avatar_url }
    }
}

impl Composer {
    pub(crate) async fn member(&mut self, user_id: &UserId) -> Result<Option<Arc<Event>>, RoomError> {
        self.current(&StateEventType::RoomMember, user_id.as_str()).await
    }

    /// Refuses senders who are not in the room, before they learn anything of its members.
    pub(crate) async fn require_sender(&mut self, sender: &UserId) -> Result<(), RoomError> {
        let membership = self.member(sender).await?.as_deref().and_then(Event::membership);
        match membership {
            Some(Membership::Join) => Ok(()),
            _ => Err(RoomError::Forbidden("you are not in this room")),
        }
    }

    /// Who lets a user into a restricted room, if that is how they come in (room version 8, "Restricted rooms").
    pub(crate) async fn restricted_join(
        &mut self,
        user_id: &UserId,
    ) -> Result<Option<OwnedUserId>, RoomError> {
        let Some(join_rules) = self.current(&StateEventType::RoomJoinRules, "").await? else {
            return Ok(None);
        };
        let Some(rules) = join_rules.content_as::<JoinRules>() else { return Ok(None) };
        let authorization = &self.view.room.rules.authorization;
        let is_restricted = (rules.join_rule == "restricted" && authorization.restricted_join_rule)
            || (rules.join_rule == "knock_restricted" && authorization.knock_restricted_join_rule);
        if !is_restricted {
            return Ok(None);
        }
        if !self.view.is_in_any(user_id, &rules).await? {
            return Err(RoomError::Forbidden("you are in none of the rooms whose members may join this one"));
        }
        self.authoriser().await?.map(Some).ok_or(RoomError::UnableToAuthoriseJoin)
    }

    /// A local member who may invite.
    async fn authoriser(&mut self) -> Result<Option<OwnedUserId>, RoomError> {
        let create = self.current(&StateEventType::RoomCreate, "").await?;
        let create =
            create.ok_or_else(|| RoomError::Internal(String::from("a room without a create event")))?;
        let levels = self.current(&StateEventType::RoomPowerLevels, "").await?;
        let powers = Powers::new(&create, levels, &self.view.room.rules.authorization)?;
        let scan = rows::MEMBERS.scan((self.view.room.number.0,)).limit(MOST_AUTHORISERS);
        let members = self.view.snapshot.scan(&scan).await?.rows;
        let joined = members.into_iter().filter(|(_, row)| row.membership == Membership::Join);
        let users = joined.filter_map(|((_, user_id), _)| UserId::parse(user_id).ok());
        let mut local = users.filter(|user_id| self.view.rooms.localpart(user_id).is_some());
        Ok(local.find(|user_id| powers.may(user_id, RoomPowerLevelsIntField::Invite)))
    }
}

/// The content of `m.room.join_rules`.
#[derive(Debug, Deserialize)]
pub(crate) struct JoinRules {
    pub(crate) join_rule: String,
    #[serde(default)]
    pub(crate) allow: Vec<AllowRule>,
}

/// Who else may join a restricted room.
#[derive(Debug, Deserialize)]
pub(crate) struct AllowRule {
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    pub(crate) room_id: Option<OwnedRoomId>,
}

impl JoinRules {
    /// The rooms whose members may join.
    pub(crate) fn allowed_rooms(&self) -> impl Iterator<Item = &RoomId> {
        let memberships = self.allow.iter().filter(|rule| rule.kind.as_deref() == Some("m.room_membership"));
        memberships.filter_map(|rule| rule.room_id.as_deref()).take(MOST_ALLOWED_ROOMS)
    }
}

impl RoomView {
    /// Whether a user is in one of the rooms whose members may join this one.
    pub(crate) async fn is_in_any(&self, user_id: &UserId, rules: &JoinRules) -> Result<bool, RoomError> {
        self.is_in_any_of(user_id, rules.allowed_rooms()).await
    }

    /// Whether a user is in one of these rooms.
    pub(crate) async fn is_in_any_of(
        &self,
        user_id: &UserId,
        room_ids: impl Iterator<Item = &RoomId>,
    ) -> Result<bool, RoomError> {
        for room_id in room_ids {
            let room = match self.rooms.room(&self.snapshot, room_id).await {
                Ok(room) => room,
                Err(RoomError::RoomNotFound) => continue,
                Err(error) => return Err(error),
            };
            let row = self.snapshot.get(&rows::MEMBERS, (room.number.0, user_id.as_str())).await?;
            if row.is_some_and(|row| row.membership == Membership::Join) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// How an address that was invited under this token may be shown.
    pub async fn third_party_name(&self, token: &str) -> Result<Option<String>, RoomError> {
        #[derive(serde::Deserialize)]
        struct Content {
            display_name: String,
        }
        let invite =
            self.state_event(self.current_state().await?, "m.room.third_party_invite", token).await?;
        Ok(invite.and_then(|invite| invite.content_as::<Content>()).map(|content| content.display_name))
    }

    /// Who may do what at present.
    pub async fn powers(&self) -> Result<Powers, RoomError> {
        let keys = [("m.room.create", ""), ("m.room.power_levels", "")];
        let mut found = self.state_events(self.current_state().await?, &keys).await?;
        let levels = found.pop().flatten();
        let create = found.pop().flatten();
        let create =
            create.ok_or_else(|| RoomError::Internal(String::from("a room without a create event")))?;
        Powers::new(&create, levels, &self.room.rules.authorization)
    }
}

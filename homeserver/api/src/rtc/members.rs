use std::{future::Future, pin::Pin};

use entente_call_bridge::{Admission, Admitted, Claims};
use entente_federation::Policy;
use entente_rooms::{Membership, Powers, RoomError, Rooms};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, ServerName, UserId, events::TimelineEventType};

/// On account of what somebody may be in a call: being joined to its room. Tokens carry it as their owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallMember {
    /// The room.
    pub room_id: OwnedRoomId,
    /// The user.
    pub user_id: OwnedUserId,
}

impl CallMember {
    /// As tokens carry it.
    pub fn to_owner(&self) -> String {
        serde_json::Value::from([self.room_id.as_str(), self.user_id.as_str()].as_slice()).to_string()
    }

    /// From a token; `None` if it is of somebody else.
    pub fn from_owner(owner: &str) -> Option<Self> {
        let (room_id, user_id): (String, String) = serde_json::from_str(owner).ok()?;
        let room_id = RoomId::parse(room_id).ok()?;
        Some(Self { room_id, user_id: UserId::parse(user_id).ok()? })
    }
}

/// What users of other servers may do in calls that are held here, if they are joined to the room and it lets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteUsers {
    /// Nothing.
    Refused,
    /// Receive media.
    Subscribe,
    /// Send media as well.
    Publish,
}

/// What somebody may do in the calls of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    Outside,
    /// Receive media.
    Subscriber,
    /// Send media as well.
    Publisher,
}

/// By these events, of which clients send the one or the other, a user says to be in a call. Who may send neither is its audience.
const STATE_OF_MEMBERS: &str = "org.matrix.msc3401.call.member";
const MESSAGES_OF_MEMBERS: [&str; 2] = ["org.matrix.msc4143.rtc.member", "m.rtc.member"];

/// Lets those into calls who are joined to their rooms.
#[derive(Clone, Debug)]
pub struct RoomMembers {
    /// The rooms.
    pub rooms: Rooms,
    /// With which servers this one has to do.
    pub policy: Policy,
    /// What their users may do.
    pub remote_users: RemoteUsers,
}

impl RoomMembers {
    /// What somebody may do now.
    pub async fn standing(&self, member: &CallMember) -> Result<Standing, RoomError> {
        let server = member.user_id.server_name();
        let is_remote = !self.policy.is_own(server);
        let is_refused =
            self.remote_users == RemoteUsers::Refused || self.policy.check_either(server).is_err();
        if is_remote && is_refused {
            return Ok(Standing::Outside);
        }
        let view = match self.rooms.view(&member.room_id).await {
            Err(RoomError::RoomNotFound) => return Ok(Standing::Outside),
            view => view?,
        };
        if view.membership(&member.user_id).await? != Some(Membership::Join) {
            return Ok(Standing::Outside);
        }
        if is_remote {
            match view.require_allowed(server).await {
                Err(RoomError::Forbidden(_)) => return Ok(Standing::Outside),
                allowed => allowed?,
            }
            if self.remote_users == RemoteUsers::Subscribe {
                return Ok(Standing::Subscriber);
            }
        }
        let powers = view.powers().await?;
        Ok(if may_announce(&powers, &member.user_id) { Standing::Publisher } else { Standing::Subscriber })
    }

    /// Refuses a server of which nobody is in the room: it is not asked anything on account of it.
    pub(super) async fn require_server(
        &self,
        room_id: &RoomId,
        server: &ServerName,
    ) -> Result<(), RoomError> {
        let view = match self.rooms.view(room_id).await {
            Err(RoomError::RoomNotFound) => return Err(RoomError::Forbidden(NOT_JOINED)),
            view => view?,
        };
        view.require_server(server).await
    }
}

/// What is told to who may not be in a call.
pub(super) const NOT_JOINED: &str = "only who is joined to a room can take part in its calls";

fn may_announce(powers: &Powers, user_id: &UserId) -> bool {
    let state = TimelineEventType::from(STATE_OF_MEMBERS);
    powers.may_send(user_id, &state, Some(user_id.as_str()))
        || MESSAGES_OF_MEMBERS
            .iter()
            .any(|name| powers.may_send(user_id, &TimelineEventType::from(*name), None))
}

impl Admission for RoomMembers {
    fn may_join<'a>(
        &'a self,
        claims: &'a Claims,
    ) -> Pin<Box<dyn Future<Output = Result<Admitted, String>> + Send + 'a>> {
        Box::pin(async {
            // Whoever runs the server can sign tokens for other purposes, with its key.
            if claims.owner.is_empty() {
                return Ok(Admitted::AsGranted);
            }
            let Some(member) = CallMember::from_owner(&claims.owner) else { return Ok(Admitted::No) };
            let standing = self.standing(&member).await.map_err(|error| error.to_string())?;
            Ok(match standing {
                Standing::Outside => Admitted::No,
                Standing::Subscriber => Admitted::Publishing(false),
                Standing::Publisher => Admitted::Publishing(true),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use ruma::{room_id, user_id};

    use super::*;

    #[test]
    fn an_owner_is_read_back() {
        let member = CallMember {
            room_id: room_id!("!r\"oom:example.org").to_owned(),
            user_id: user_id!("@alice:example.org").to_owned(),
        };
        assert_eq!(CallMember::from_owner(&member.to_owner()), Some(member));
        assert_eq!(CallMember::from_owner("[\"!r:a\"]"), None);
        assert_eq!(CallMember::from_owner("@alice:example.org"), None);
    }
}

use std::{future::Future, pin::Pin};

use entente_call_bridge::{Admission, Claims};
use entente_rooms::{Membership, RoomError, Rooms};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};

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

/// Lets those into calls who are joined to their rooms.
#[derive(Clone, Debug)]
pub struct RoomMembers(pub Rooms);

impl RoomMembers {
    /// Whether somebody is joined.
    pub(super) async fn contain(&self, member: &CallMember) -> Result<bool, RoomError> {
        let view = match self.0.view(&member.room_id).await {
            Err(RoomError::RoomNotFound) => return Ok(false),
            view => view?,
        };
        Ok(view.membership(&member.user_id).await? == Some(Membership::Join))
    }
}

impl Admission for RoomMembers {
    fn may_join<'a>(
        &'a self,
        claims: &'a Claims,
    ) -> Pin<Box<dyn Future<Output = Result<bool, String>> + Send + 'a>> {
        Box::pin(async {
            // Whoever runs the server can sign tokens for other purposes, with its key.
            if claims.owner.is_empty() {
                return Ok(true);
            }
            match CallMember::from_owner(&claims.owner) {
                Some(member) => self.contain(&member).await.map_err(|error| error.to_string()),
                None => Ok(false),
            }
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

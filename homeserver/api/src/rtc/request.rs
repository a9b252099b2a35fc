//! What the endpoints for tokens are asked. Fields that we do not act upon may be there.

use std::time::Duration;

use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedRoomId, OwnedServerName, OwnedUserId, UserId};
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    CallMember,
    delegations::Place,
    identity::{of_member, of_member_id, sfu_room},
    leaves::Leave,
    tokens::Seat,
};
use crate::MatrixError;

/// Ids, in bytes, as everywhere in Matrix.
const MAXIMUM_ID_BYTES: usize = 255;

/// An `OpenID` token, as `POST /user/{userId}/openid/request_token` answers it.
#[derive(Debug, Deserialize)]
pub(super) struct OpenIdToken {
    pub(super) access_token: String,
    pub(super) matrix_server_name: OwnedServerName,
}

/// A delayed leave that is handed over.
#[derive(Debug, Default, Deserialize)]
pub(super) struct LeaveOf {
    delay_id: Option<String>,
    /// Milliseconds.
    delay_timeout: Option<u64>,
}

impl LeaveOf {
    /// The leave, if there is one.
    pub(super) fn leave(self) -> Result<Option<Leave>, MatrixError> {
        let Some(delay_id) = self.delay_id else { return Ok(None) };
        check_ids(&[&delay_id])?;
        let patience = self.delay_timeout.filter(|timeout| *timeout > 0).map(Duration::from_millis);
        Ok(Some(Leave { delay_id, patience }))
    }

    /// The leave that must be there.
    pub(super) fn required(self) -> Result<Leave, MatrixError> {
        self.leave()?.ok_or_else(|| MatrixError::bad_json("delay_id is missing"))
    }
}

/// `POST /sfu/get`.
#[derive(Debug, Deserialize)]
pub(super) struct SfuGet {
    pub(super) room: OwnedRoomId,
    pub(super) openid_token: OpenIdToken,
    pub(super) device_id: String,
    #[serde(flatten)]
    pub(super) leave: LeaveOf,
}

/// A member of a call, as the service is told of it.
#[derive(Debug, Deserialize)]
pub(super) struct ClaimedMember {
    pub(super) id: String,
    pub(super) claimed_user_id: Option<OwnedUserId>,
    pub(super) claimed_device_id: String,
}

/// `POST /get_token` and `POST /delegate_delayed_leave`.
#[derive(Debug, Deserialize)]
pub(super) struct GetToken {
    pub(super) room_id: OwnedRoomId,
    pub(super) slot_id: String,
    pub(super) openid_token: OpenIdToken,
    pub(super) member: ClaimedMember,
    #[serde(flatten)]
    pub(super) leave: LeaveOf,
}

/// `POST /rtc/livekit/get_token` and `POST /rtc/livekit/delegate_delayed_leave` (MSC4195), in the shapes of its drafts: `member` in the
/// earlier, `member_id` in the later.
#[derive(Debug, Deserialize)]
pub(super) struct HomeserverToken {
    pub(super) server_name: Option<OwnedServerName>,
    pub(super) url: Option<String>,
    pub(super) room_id: OwnedRoomId,
    pub(super) slot_id: String,
    pub(super) member: Option<ClaimedMember>,
    pub(super) member_id: Option<String>,
    /// In requests of servers: whose token it is to be.
    pub(super) user_id: Option<OwnedUserId>,
    #[serde(flatten)]
    pub(super) leave: LeaveOf,
}

impl HomeserverToken {
    /// The user's place in the call.
    pub(super) fn seat(&self, user_id: OwnedUserId) -> Result<Seat, MatrixError> {
        let identity = match (&self.member, &self.member_id) {
            (Some(member), _) => {
                check_ids(&[&member.id, &member.claimed_device_id])?;
                if member.claimed_user_id.as_ref().is_some_and(|claimed| *claimed != user_id) {
                    return Err(MatrixError::invalid_param("member.claimed_user_id is another user"));
                }
                of_member(user_id.as_str(), &member.claimed_device_id, &member.id)
            }
            (None, Some(member_id)) => {
                check_ids(&[member_id])?;
                of_member_id(user_id.as_str(), member_id)
            }
            (None, None) => return Err(MatrixError::bad_json("member or member_id is missing")),
        };
        check_ids(&[&self.slot_id])?;
        let sfu_room = sfu_room(self.room_id.as_str(), &self.slot_id);
        let member = CallMember { room_id: self.room_id.clone(), user_id };
        Ok(Seat { place: Place { room: sfu_room, identity }, member })
    }

    /// The same request, as another server is asked it: in the shapes of all drafts.
    pub(super) fn to_peer(&self, user_id: &UserId) -> CanonicalJsonObject {
        let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
        let object = |pairs: Vec<(&str, CanonicalJsonValue)>| -> CanonicalJsonObject {
            pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
        };
        let mut pairs = vec![
            ("room_id", text(self.room_id.as_str())),
            ("slot_id", text(&self.slot_id)),
            ("user_id", text(user_id.as_str())),
        ];
        pairs.extend(self.url.as_deref().map(|url| ("url", text(url))));
        pairs.extend(self.member_id.as_deref().map(|member_id| ("member_id", text(member_id))));
        if let Some(member) = &self.member {
            let member = object(vec![
                ("id", text(&member.id)),
                ("claimed_device_id", text(&member.claimed_device_id)),
                ("claimed_user_id", text(user_id.as_str())),
            ]);
            pairs.push(("member", CanonicalJsonValue::Object(member)));
        }
        object(pairs)
    }
}

/// Reads a body.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, MatrixError> {
    serde_json::from_slice(body).map_err(|error| {
        if error.is_data() { MatrixError::bad_json(error) } else { MatrixError::not_json(error) }
    })
}

/// Refuses what is longer than an id may be, or empty.
pub(super) fn check_ids(ids: &[&str]) -> Result<(), MatrixError> {
    let is_id = |id: &&str| !id.is_empty() && id.len() <= MAXIMUM_ID_BYTES;
    if ids.iter().all(is_id) { Ok(()) } else { Err(MatrixError::invalid_param("ids have 1 to 255 bytes")) }
}

//! What the endpoints for tokens are asked. Fields that we do not act upon, those of delegated leaving among them, may be there.

use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId};
use serde::{Deserialize, de::DeserializeOwned};

use crate::MatrixError;

/// Ids, in bytes, as everywhere in Matrix.
const MAXIMUM_ID_BYTES: usize = 255;

/// An `OpenID` token, as `POST /user/{userId}/openid/request_token` answers it.
#[derive(Debug, Deserialize)]
pub(super) struct OpenIdToken {
    pub(super) access_token: String,
    pub(super) matrix_server_name: OwnedServerName,
}

/// `POST /sfu/get`.
#[derive(Debug, Deserialize)]
pub(super) struct SfuGet {
    pub(super) room: OwnedRoomId,
    pub(super) openid_token: OpenIdToken,
    pub(super) device_id: String,
}

/// A member of a call, as the service is told of it.
#[derive(Debug, Deserialize)]
pub(super) struct ClaimedMember {
    pub(super) id: String,
    pub(super) claimed_user_id: Option<OwnedUserId>,
    pub(super) claimed_device_id: String,
}

/// `POST /get_token`.
#[derive(Debug, Deserialize)]
pub(super) struct GetToken {
    pub(super) room_id: OwnedRoomId,
    pub(super) slot_id: String,
    pub(super) openid_token: OpenIdToken,
    pub(super) member: ClaimedMember,
}

/// `POST /rtc/livekit/get_token` (MSC4195), in the shapes of its drafts: `member` in the earlier, `member_id` in the later.
#[derive(Debug, Deserialize)]
pub(super) struct HomeserverToken {
    pub(super) server_name: Option<OwnedServerName>,
    pub(super) url: Option<String>,
    pub(super) room_id: OwnedRoomId,
    pub(super) slot_id: String,
    pub(super) member: Option<ClaimedMember>,
    pub(super) member_id: Option<String>,
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

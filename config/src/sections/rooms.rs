//! `[rooms]`: what rooms are like unless their creator says otherwise.

use serde::{Deserialize, Serialize};

use crate::values::RoomVersion;

/// What rooms are like unless their creator says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rooms {
    /// Their version.
    pub default_room_version: RoomVersion,
}

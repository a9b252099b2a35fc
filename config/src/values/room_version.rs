use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::InvalidValue;

/// The newest version that a room can have.
const NEWEST: u8 = 12;

/// A version of rooms, `"1"` to `"12"` ([Matrix specification, room versions](https://spec.matrix.org/latest/rooms/)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RoomVersion(u8);

impl Default for RoomVersion {
    fn default() -> Self {
        Self(NEWEST)
    }
}

impl FromStr for RoomVersion {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = (1..=NEWEST).find(|version| version.to_string() == text);
        known.map(Self).ok_or_else(|| {
            InvalidValue::new(format!("expected a version of rooms, \"1\" to \"{NEWEST}\", found {text:?}"))
        })
    }
}

impl TryFrom<String> for RoomVersion {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<RoomVersion> for String {
    fn from(version: RoomVersion) -> Self {
        version.to_string()
    }
}

impl fmt::Display for RoomVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

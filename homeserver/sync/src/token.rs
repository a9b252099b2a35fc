use std::fmt;

use entente_storage::Position;

use crate::sliding::connection::SlidingToken;

/// How far a client has come: `s1742`, and behind a `~` how far with to-device messages where that is less.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncToken {
    /// Up to where everything else was delivered.
    pub position: Position,
    /// Up to where to-device messages were delivered, if there were too many for one answer.
    pub to_device: Option<Position>,
}

impl SyncToken {
    /// Everything before a position.
    pub fn new(position: Position) -> Self {
        Self { position, to_device: None }
    }

    /// Reads a token.
    pub fn parse(text: &str) -> Option<Self> {
        let (position, to_device) = match text.split_once('~') {
            Some((position, to_device)) => (position, Some(to_device.parse().ok()?)),
            None => (text, None),
        };
        Some(Self { position: position.parse().ok()?, to_device })
    }

    /// Up to where to-device messages were delivered.
    pub fn to_device(&self) -> &Position {
        self.to_device.as_ref().unwrap_or(&self.position)
    }
}

/// The position up to which a token of `/sync` in any form delivers, for endpoints that begin a page there.
pub fn position_of_token(text: &str) -> Option<Position> {
    match SlidingToken::parse(text) {
        Some(token) => Some(token.position),
        None => SyncToken::parse(text).map(|token| token.position),
    }
}

impl fmt::Display for SyncToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.position)?;
        match &self.to_device {
            Some(position) => write!(formatter, "~{position}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::SyncToken;

    #[test]
    fn text_gives_the_token_back_or_is_refused() {
        for text in ["s0", "s17", "s17~s4", "s17w3s5~s17w3s4"] {
            let token = SyncToken::parse(text);
            assert_eq!(token.map(|token| token.to_string()).as_deref(), Some(text));
        }
        for text in ["", "~", "s17~", "~s4", "s17~s4~s3", "t17", "s17 "] {
            assert_eq!(SyncToken::parse(text), None, "{text}");
        }
    }
}

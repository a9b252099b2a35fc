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
    use proptest::prelude::*;

    use super::{SyncToken, position_of_token};

    /// A position as text: writers in their order, none of them at 0.
    fn position() -> impl Strategy<Value = String> {
        prop::collection::btree_map(0..9_u16, 1..u64::MAX, 1..4).prop_map(|writers| {
            let part = |(writer, sequence)| match writer {
                0 => format!("s{sequence}"),
                writer => format!("w{writer}s{sequence}"),
            };
            writers.into_iter().map(part).collect()
        })
    }

    proptest! {
        #[test]
        fn any_token_is_read_as_it_was_written(
            position in position(), to_device in prop::option::of(position()), numbers: (u64, u64)
        ) {
            let text = match &to_device {
                Some(to_device) => format!("{position}~{to_device}"),
                None => position.clone(),
            };
            let token = SyncToken::parse(&text);
            prop_assert_eq!(token.as_ref().map(ToString::to_string), Some(text.clone()));
            let position = position.parse().ok();
            prop_assert_eq!(token.map(|token| token.position), position.clone());
            prop_assert_eq!(position_of_token(&text), position.clone());
            let sliding = format!("c{:x}.{}_{}", numbers.0, numbers.1, text.split('~').next().unwrap_or_default());
            prop_assert_eq!(position_of_token(&sliding), position);
        }

        #[test]
        fn any_text_is_a_token_or_none(text in "[cstw0-9a-f._~ é-]{0,40}") {
            if let Some(token) = SyncToken::parse(&text) {
                prop_assert_eq!(SyncToken::parse(&token.to_string()), Some(token));
            }
            if let Some(token) = crate::sliding::connection::SlidingToken::parse(&text) {
                prop_assert_eq!(crate::sliding::connection::SlidingToken::parse(&token.to_string()), Some(token));
            }
        }
    }

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

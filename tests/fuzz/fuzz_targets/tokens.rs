//! The tokens with which clients come back.
#![no_main]

use entente_rooms::TimelinePlace;
use entente_storage::Position;
use entente_sync::{SyncToken, position_of_token};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(position) = text.parse::<Position>() {
        assert_eq!(position.to_string().parse(), Ok(position));
    }
    if let Some(token) = SyncToken::parse(text) {
        assert_eq!(SyncToken::parse(&token.to_string()), Some(token));
    }
    if let Ok(place) = text.parse::<TimelinePlace>() {
        assert_eq!(place.to_string().parse::<TimelinePlace>().ok(), Some(place));
    }
    let _ = position_of_token(text);
});

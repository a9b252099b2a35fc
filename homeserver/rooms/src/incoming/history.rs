use ruma::{OwnedEventId, RoomId};

use super::{ToldState, VerifiedPdu};
use crate::{RoomError, Rooms};

/// Events that came before those that a room begins with here, as another server told of them.
#[derive(Clone, Debug, Default)]
pub struct Chapter {
    /// The events, each behind those before it. Everything in it was verified.
    pub events: Vec<VerifiedPdu>,
    /// The states before those of them of which not everything before them is known.
    pub told: Vec<(OwnedEventId, ToldState)>,
}

impl Rooms {
    /// Puts history before what is known of a room (S-S API, "Backfilling"). Events whose states do not follow from what is
    /// known are left out. Answers how many were added.
    pub async fn add_history(&self, room_id: &RoomId, chapter: &Chapter) -> Result<usize, RoomError> {
        self.change_stored_room(room_id, async |mut composer| {
            let added = composer.add_history(chapter).await?;
            Ok((composer, added))
        })
        .await
    }
}

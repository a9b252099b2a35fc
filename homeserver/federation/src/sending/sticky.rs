//! Sticky events (MSC4354) for servers that come into a room after them: they learn of them from those who sent them.

use entente_rooms::{Event, RoomView};
use ruma::{OwnedServerName, UserId};

use super::{Outbox, queue::Waiting};
use crate::FederationError;

/// A server of which so many users are in a room may have come in just now: those who join right behind the first are counted too.
const MOST_NEW: u64 = 5;

impl Outbox {
    /// Notes for the server of somebody who joined what this server's users have said that still sticks, if that server may be new in
    /// the room.
    pub(super) async fn note_newcomer(
        &self,
        view: &RoomView,
        user_id: &str,
        waiting: &mut Waiting,
    ) -> Result<(), FederationError> {
        let Some(server) = self.server_elsewhere(user_id) else { return Ok(()) };
        if view.users_of(&server).await? > MOST_NEW {
            return Ok(());
        }
        for event in view.sticky_events(None).await? {
            if event.is_shown() && self.inner.rooms.local(event.sender.as_str()).is_some() {
                waiting.add_event(server.clone(), view, &event);
            }
        }
        Ok(())
    }

    /// The server of a user who is not of this one, if it may be spoken to.
    fn server_elsewhere(&self, user_id: &str) -> Option<OwnedServerName> {
        let server = <&UserId>::try_from(user_id).ok()?.server_name();
        let is_elsewhere = server != self.inner.rooms.server_name();
        let may_be_told = self.inner.client.policy().check_outbound(server).is_ok();
        (is_elsewhere && may_be_told).then(|| server.to_owned())
    }
}

/// Until when an event sticks, in ms since 1970; 0: it does not.
pub(super) fn sticky_until(view: &RoomView, event: &Event) -> u64 {
    let now = view.now();
    event.sticky_for(now).map_or(0, |left| now.millis().saturating_add(left))
}

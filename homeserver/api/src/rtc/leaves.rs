use std::{fmt, sync::Arc, time::Duration};

use entente_call_bridge::{CallBridge, CallEvent};
use entente_environment::Clock;
use entente_rooms::{DelayedAction, RoomError, Rooms};
use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast::error::RecvError};

use super::{
    CallMember,
    delegations::{Delegations, Duty, Place},
};
use crate::MatrixError;

/// How long a participant has to come, at the most, after it delegated its leave.
const LONGEST_PATIENCE: Duration = Duration::from_secs(60 * 60);
/// How long nothing is looked at if nothing happens.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Delayed leaves (MSC4140) that clients handed to the server: it restarts them while their participants are in the call and sends
/// them when they are gone. What was handed over is forgotten when the server stops; the delayed event itself is not. Cheap to clone.
#[derive(Clone)]
pub struct Leaves {
    rooms: Rooms,
    bridge: CallBridge,
    clock: Arc<dyn Clock>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    delegations: Mutex<Delegations>,
    changed: Notify,
}

/// A delayed leave that a client hands over.
pub(super) struct Leave {
    pub(super) delay_id: String,
    /// How long its participant has to come, if the client says so.
    pub(super) patience: Option<Duration>,
}

impl fmt::Debug for Leaves {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Leaves").finish_non_exhaustive()
    }
}

impl Leaves {
    /// None yet.
    pub fn new(rooms: Rooms, bridge: CallBridge, clock: Arc<dyn Clock>) -> Self {
        Self { rooms, bridge, clock, shared: Arc::default() }
    }

    /// Looks after a delayed event of a participant.
    ///
    /// 400, `M_INVALID_PARAM`, if it is not one of this user in this room; 403, `M_FORBIDDEN`, for users of other servers, whose
    /// delayed events are there; 503, `M_UNKNOWN`, if there are too many.
    pub(super) async fn delegate(
        &self,
        member: &CallMember,
        place: Place,
        leave: Leave,
    ) -> Result<(), MatrixError> {
        if member.user_id.server_name() != self.rooms.server_name() {
            return Err(MatrixError::forbidden("a delayed leave is delegated to the server that delays it"));
        }
        let delayed = match self.rooms.delayed_event(&member.user_id, &leave.delay_id).await {
            Err(RoomError::NotFound(_)) => None,
            found => Some(found?),
        };
        let delayed = delayed.filter(|delayed| delayed.room_id == member.room_id.as_str());
        let delayed = delayed.ok_or_else(|| {
            MatrixError::invalid_param("delay_id is of no delayed event that you have in this room")
        })?;
        let patience = leave.patience.unwrap_or(LONGEST_PATIENCE).min(LONGEST_PATIENCE);
        let now = self.clock.monotonic();
        let began =
            self.shared.delegations.lock().begin(place.clone(), leave.delay_id, delayed.delay, patience, now);
        if !began {
            return Err(MatrixError::unavailable("too many delayed leaves are delegated"));
        }
        self.find(&place).await;
        self.shared.changed.notify_one();
        Ok(())
    }

    /// Sees whether a participant is there.
    async fn find(&self, place: &Place) -> bool {
        // The bridge has stopped if it cannot be asked: then so does everything.
        let participants = self.bridge.participants(&place.room).await.unwrap_or_default();
        let is_there = participants.iter().any(|participant| participant.identity == place.identity);
        if is_there {
            self.shared.delegations.lock().came(place, self.clock.monotonic());
        }
        is_there
    }

    /// Follows the calls, for as long as it is polled.
    pub async fn follow(self) {
        let mut events = self.bridge.events();
        loop {
            let duties = self.shared.delegations.lock().due(self.clock.monotonic());
            for duty in duties {
                self.perform(duty).await;
            }
            let next = self.shared.delegations.lock().next();
            let pause = next.map_or(LONGEST_SLEEP, |next| {
                next.saturating_duration_since(self.clock.monotonic()).min(LONGEST_SLEEP)
            });
            tokio::select! {
                event = events.recv() => match event {
                    Ok(event) => self.hear(event),
                    Err(RecvError::Lagged(_)) => self.look_at_all().await,
                    Err(RecvError::Closed) => return,
                },
                () = self.shared.changed.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn hear(&self, event: CallEvent) {
        let now = self.clock.monotonic();
        match event {
            CallEvent::ParticipantJoined { room, identity, .. } => {
                self.shared.delegations.lock().came(&Place { room, identity }, now);
            }
            CallEvent::ParticipantLeft { room, identity, reason, .. } => {
                let replaced = reason == "DUPLICATE_IDENTITY";
                self.shared.delegations.lock().went(&Place { room, identity }, replaced, now);
            }
            _ => {}
        }
    }

    /// Events were lost: whoever is not there has gone, or has not come yet; it gets as long as who is replaced.
    async fn look_at_all(&self) {
        let places = self.shared.delegations.lock().all();
        for place in places {
            if !self.find(&place).await {
                self.shared.delegations.lock().went(&place, true, self.clock.monotonic());
            }
        }
    }

    async fn perform(&self, duty: Duty) {
        let (delay_id, action) = match duty {
            Duty::Restart(delay_id) => (delay_id, DelayedAction::Restart),
            Duty::Send(delay_id) => (delay_id, DelayedAction::Send),
        };
        let outcome = self.rooms.manage_delayed(&delay_id, action).await;
        let mut delegations = self.shared.delegations.lock();
        match outcome {
            Ok(()) if action == DelayedAction::Restart => {}
            Err(error @ RoomError::Storage(_)) => {
                tracing::warn!(%error, "a delayed leave is tried again soon");
                delegations.retry(&delay_id, self.clock.monotonic());
            }
            // The client sent or cancelled it itself.
            Ok(()) | Err(RoomError::NotFound(_)) => delegations.forget(&delay_id),
            Err(error) => {
                tracing::info!(%error, "a delayed leave cannot be sent");
                delegations.forget(&delay_id);
            }
        }
    }
}

use std::{fmt, sync::Arc, time::Duration};

use entente_call_bridge::{CallBridge, CallEvent};
use entente_environment::Clock;
use entente_rooms::{DelayedAction, Delegation, RoomError, Rooms};
use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast::error::RecvError};

use super::{
    CallMember,
    delegations::{Delegations, Duty, Place, RETURN_WITHIN},
};
use crate::MatrixError;

/// How long a participant has to come, at the most, after it delegated its leave.
const LONGEST_PATIENCE: Duration = Duration::from_secs(60 * 60);
/// How long nothing is looked at if nothing happens.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// Before the storage is asked again for what was handed over.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Why a participant is gone who will probably be back: a session of its own replaced it, or it was told to connect anew.
const EXPECTED_BACK: [&str; 4] =
    ["DUPLICATE_IDENTITY", "STATE_MISMATCH", "CONNECTION_TIMEOUT", "SERVER_SHUTDOWN"];

/// Delayed leaves (MSC4140) that clients handed to the server: it restarts them while their participants are in the call and sends
/// them when they are gone, also after it was started again. Cheap to clone.
#[derive(Clone)]
pub struct Leaves {
    rooms: Rooms,
    bridge: CallBridge,
    clock: Arc<dyn Clock>,
    keeper: Arc<str>,
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

/// Why a delayed leave is not looked after.
#[derive(Debug, thiserror::Error)]
pub(super) enum LeaveError {
    /// 403, `M_FORBIDDEN`: the delayed events of other servers' users are there.
    #[error("a delayed leave is delegated to the server that delays it")]
    Elsewhere,
    /// 400, `M_INVALID_PARAM`.
    #[error("delay_id is of no delayed event that you have waiting in this room")]
    Unknown,
    /// 503, `M_UNKNOWN`.
    #[error("too many delayed leaves are delegated")]
    TooMany,
    #[error(transparent)]
    Room(#[from] RoomError),
}

impl From<LeaveError> for MatrixError {
    fn from(error: LeaveError) -> Self {
        let message = error.to_string();
        match error {
            LeaveError::Elsewhere => Self::forbidden(&message),
            LeaveError::Unknown => Self::invalid_param(&message),
            LeaveError::TooMany => Self::unavailable(&message),
            LeaveError::Room(error) => error.into(),
        }
    }
}

impl fmt::Debug for Leaves {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Leaves").finish_non_exhaustive()
    }
}

impl Leaves {
    /// What was handed over to this node, which no other has the name of, is looked after when [`Self::follow`] is polled.
    pub fn new(rooms: Rooms, bridge: CallBridge, clock: Arc<dyn Clock>, keeper: String) -> Self {
        Self { rooms, bridge, clock, keeper: keeper.into(), shared: Arc::default() }
    }

    /// Looks after a delayed event of a participant, which has to be one that this user has waiting in this room.
    pub(super) async fn delegate(
        &self,
        member: &CallMember,
        place: Place,
        leave: Leave,
    ) -> Result<(), LeaveError> {
        if member.user_id.server_name() != self.rooms.server_name() {
            return Err(LeaveError::Elsewhere);
        }
        let patience = leave.patience.unwrap_or(LONGEST_PATIENCE).min(LONGEST_PATIENCE);
        let delegation = Delegation {
            keeper: self.keeper.to_string(),
            call: place.room.clone(),
            identity: place.identity.clone(),
            patience,
        };
        let CallMember { room_id, user_id } = member;
        let delay = self.rooms.delegate_delayed(user_id, room_id, &leave.delay_id, &delegation).await;
        let delay = delay.map_err(|error| match error {
            RoomError::NotFound(_) => LeaveError::Unknown,
            error => LeaveError::Room(error),
        })?;
        let now = self.clock.monotonic();
        if !self.shared.delegations.lock().begin(place.clone(), leave.delay_id, delay, patience, now) {
            return Err(LeaveError::TooMany);
        }
        self.find(&place).await;
        self.shared.changed.notify_one();
        Ok(())
    }

    /// Looks after what was handed over before the server was started. Nobody is in a call yet, and who was may come back.
    async fn restore(&self) {
        let delegated = loop {
            match self.rooms.delegated(&self.keeper).await {
                Ok(delegated) => break delegated,
                Err(error) => {
                    tracing::warn!(%error, "delegated leaves cannot be read; it will be tried again");
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        };
        let now = self.clock.monotonic();
        // The newest of a participant counts.
        for (delay_id, delay, delegation) in delegated.into_iter().rev() {
            let Delegation { call, identity, patience, .. } = delegation;
            let place = Place { room: call, identity };
            let mut delegations = self.shared.delegations.lock();
            // A client may also have been quicker to hand over a new one.
            if !delegations.has(&place) {
                delegations.begin(place, delay_id, delay, patience.min(RETURN_WITHIN), now);
            }
        }
        // Who was quicker to come back than this began to listen.
        self.look_for_all().await;
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
        self.restore().await;
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
                let expected = EXPECTED_BACK.contains(&reason);
                self.shared.delegations.lock().went(&Place { room, identity }, expected, now);
            }
            _ => {}
        }
    }

    async fn look_for_all(&self) {
        let places = self.shared.delegations.lock().all();
        for place in places {
            self.find(&place).await;
        }
    }

    /// Events were lost: whoever is not there has gone, or has not come yet; it gets as long as who is expected back.
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
            Duty::Send(delay_id) => {
                // It may have come meanwhile, without media yet, or while events were lost.
                let place = self.shared.delegations.lock().place(&delay_id).cloned();
                if let Some(place) = place
                    && self.find(&place).await
                {
                    return;
                }
                (delay_id, DelayedAction::Send)
            }
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

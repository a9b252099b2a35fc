use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use entente_call_bridge::{CallBridge, CallEvent, LivekitServer};
use entente_environment::Clock;
use entente_rooms::{DelayedAction, Delegation, RoomError, Rooms};
use parking_lot::Mutex;
use tokio::sync::{
    Notify,
    broadcast::{Receiver, error::RecvError},
};

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
/// How often a `LiveKit` server is asked who is there: its webhooks may not come here.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Why a participant is gone who will probably be back: a session of its own replaced it, or it was told to connect anew.
const EXPECTED_BACK: [&str; 4] =
    ["DUPLICATE_IDENTITY", "STATE_MISMATCH", "CONNECTION_TIMEOUT", "SERVER_SHUTDOWN"];

/// Who knows who is in calls.
#[derive(Clone, Debug)]
pub enum Witness {
    /// This process, which forwards them.
    Bridge(CallBridge),
    /// A `LiveKit` server.
    Livekit(LivekitServer),
}

impl Witness {
    fn events(&self) -> Receiver<CallEvent> {
        match self {
            Self::Bridge(bridge) => bridge.events(),
            Self::Livekit(livekit) => livekit.events(),
        }
    }

    /// The identities of who is in a room of the SFU; `None` if that cannot be found out now.
    async fn identities(&self, room: &str) -> Option<HashSet<String>> {
        match self {
            Self::Bridge(bridge) => {
                // The bridge has stopped if it cannot be asked: then so does everything.
                let participants = bridge.participants(room).await.ok()?;
                Some(participants.into_iter().map(|participant| participant.identity).collect())
            }
            Self::Livekit(livekit) => match livekit.participants(room).await {
                Ok(identities) => Some(identities.into_iter().collect()),
                Err(error) => {
                    tracing::warn!(%error, "who is in a call cannot be found out");
                    None
                }
            },
        }
    }

    /// Whether who is gone for this reason will probably be back.
    fn expects_back(&self, reason: &str) -> bool {
        // At a LiveKit server that is said of who was not heard for long.
        let is_lost = matches!(self, Self::Livekit(_)) && reason == "CONNECTION_TIMEOUT";
        EXPECTED_BACK.contains(&reason) && !is_lost
    }

    /// How often it has to be asked although it tells who comes and goes.
    fn look_every(&self) -> Option<Duration> {
        match self {
            Self::Bridge(_) => None,
            Self::Livekit(_) => Some(LOOK_EVERY),
        }
    }
}

/// Delayed leaves (MSC4140) that clients handed to the server: it restarts them while their participants are in the call and sends
/// them when they are gone, also after it was started again. Cheap to clone.
#[derive(Clone)]
pub struct Leaves {
    rooms: Rooms,
    witness: Witness,
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
    pub fn new(rooms: Rooms, witness: Witness, clock: Arc<dyn Clock>, keeper: String) -> Self {
        Self { rooms, witness, clock, keeper: keeper.into(), shared: Arc::default() }
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

    /// Sees whether a participant is there; `None` if that cannot be found out now.
    async fn find(&self, place: &Place) -> Option<bool> {
        let is_there = self.witness.identities(&place.room).await?.contains(&place.identity);
        if is_there {
            self.shared.delegations.lock().came(place, self.clock.monotonic());
        }
        Some(is_there)
    }

    /// Follows the calls, for as long as it is polled.
    pub async fn follow(self) {
        let mut events = self.witness.events();
        self.restore().await;
        let mut looked = self.clock.monotonic();
        loop {
            let look_at = self.witness.look_every().map(|every| looked + every);
            if look_at.is_some_and(|at| at <= self.clock.monotonic()) {
                self.look_at_rooms().await;
                looked = self.clock.monotonic();
            }
            let duties = self.shared.delegations.lock().due(self.clock.monotonic());
            for duty in duties {
                self.perform(duty).await;
            }
            let next = self.shared.delegations.lock().next();
            let pause = self.until(next).min(self.until(look_at));
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

    fn until(&self, at: Option<Instant>) -> Duration {
        at.map_or(LONGEST_SLEEP, |at| at.saturating_duration_since(self.clock.monotonic()).min(LONGEST_SLEEP))
    }

    fn hear(&self, event: CallEvent) {
        let now = self.clock.monotonic();
        match event {
            CallEvent::ParticipantJoined { room, participant } => {
                let place = Place { room: room.name, identity: participant.identity };
                self.shared.delegations.lock().came(&place, now);
            }
            CallEvent::ParticipantLeft { room, participant, reason, .. } => {
                let place = Place { room: room.name, identity: participant.identity };
                let expected = self.witness.expects_back(reason);
                self.shared.delegations.lock().went(&place, expected, now);
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
            if self.find(&place).await == Some(false) {
                self.shared.delegations.lock().went(&place, true, self.clock.monotonic());
            }
        }
    }

    /// Asks who is in the rooms in which somebody's leave is looked after.
    async fn look_at_rooms(&self) {
        let mut by_room: HashMap<String, Vec<Place>> = HashMap::new();
        let places = self.shared.delegations.lock().all();
        for place in places {
            by_room.entry(place.room.clone()).or_default().push(place);
        }
        for (room, places) in by_room {
            let Some(present) = self.witness.identities(&room).await else { continue };
            let now = self.clock.monotonic();
            let mut delegations = self.shared.delegations.lock();
            for place in places {
                delegations.looked(&place, present.contains(&place.identity), now);
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
                    && self.find(&place).await != Some(false)
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

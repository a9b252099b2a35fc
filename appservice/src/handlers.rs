//! What the service's author wants done when something happens.

use std::{collections::HashMap, future::Future, sync::Arc};

use futures_util::future::{BoxFuture, FutureExt as _};
use matrix_sdk::{
    deserialized_responses::EncryptionInfo,
    ruma::{
        EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId,
        events::{MessageLikeEventContent, StateEventContent, StaticEventContent},
    },
};
use serde::de::DeserializeOwned;

use crate::{
    Bridge, Error, InRoom, User,
    transaction::{Envelope, EphemeralEnvelope},
};

/// What a handler may fail with. A failure for reasons that may pass ([`Error::is_temporary`]) makes the homeserver send the event
/// again, for up to an hour; any other is logged.
pub type HandlerError = Box<dyn std::error::Error + Send + Sync>;
/// What a handler comes to.
pub type HandlerResult = Result<(), HandlerError>;

/// A message or something like it that was sent into a room, in the clear.
#[derive(Clone, Debug)]
pub struct Event<C> {
    /// Its id.
    pub event_id: OwnedEventId,
    /// Where it was sent.
    pub room_id: OwnedRoomId,
    /// Who sent it.
    pub sender: OwnedUserId,
    /// The time that the sender's server gave it, in milliseconds since 1970.
    pub origin_server_ts: u64,
    /// For how long from then on it sticks, in milliseconds, if it does (MSC4354).
    pub sticky_ms: Option<u64>,
    /// What it says.
    pub content: C,
    /// Whose device encrypted it and how far that is trusted, if it was encrypted.
    pub encryption: Option<Arc<EncryptionInfo>>,
}

/// A change of a room's state. The room's rules allowed it, and it was not encrypted.
#[derive(Clone, Debug)]
pub struct StateEvent<C> {
    /// Its id.
    pub event_id: OwnedEventId,
    /// The room whose state it changes.
    pub room_id: OwnedRoomId,
    /// Who changed it.
    pub sender: OwnedUserId,
    /// The time that the sender's server gave it, in milliseconds since 1970.
    pub origin_server_ts: u64,
    /// What it is the state of.
    pub state_key: String,
    /// What it says.
    pub content: C,
}

/// Something that happens in a room and is not kept.
#[derive(Clone, Debug)]
pub struct Ephemeral<C> {
    /// Where it happens.
    pub room_id: OwnedRoomId,
    /// What happens.
    pub content: C,
}

/// Where a handler runs.
#[derive(Clone, Debug)]
pub struct Context {
    bridge: Bridge,
    room_id: OwnedRoomId,
    event_id: Option<OwnedEventId>,
}

impl Context {
    pub(crate) fn new(bridge: &Bridge, room_id: &RoomId, event_id: Option<&EventId>) -> Self {
        let event_id = event_id.map(EventId::to_owned);
        Self { bridge: bridge.clone(), room_id: room_id.to_owned(), event_id }
    }

    /// The service.
    pub fn bridge(&self) -> &Bridge {
        &self.bridge
    }

    /// The service's own user.
    pub fn bot(&self) -> User {
        self.bridge.bot()
    }

    /// The service's own user in the room of the event.
    pub fn room(&self) -> InRoom {
        self.bridge.bot().in_room(&self.room_id)
    }

    /// The event, if it is one that is kept.
    pub fn event_id(&self) -> Option<&EventId> {
        self.event_id.as_deref()
    }

    /// Sends something into the event's room as the bot.
    pub async fn send(&self, content: impl MessageLikeEventContent) -> Result<OwnedEventId, Error> {
        self.room().send(content).await
    }
}

/// A decrypted or clear event on its way to the handlers.
#[derive(Clone)]
pub(crate) struct Incoming {
    pub(crate) envelope: Envelope,
    pub(crate) encryption: Option<Arc<EncryptionInfo>>,
}

type EventHandler = Arc<dyn Fn(Incoming, Context) -> BoxFuture<'static, HandlerResult> + Send + Sync>;
type EphemeralHandler =
    Arc<dyn Fn(EphemeralEnvelope, Context) -> BoxFuture<'static, HandlerResult> + Send + Sync>;

/// All handlers, by the type of what they handle.
#[derive(Default)]
pub(crate) struct Handlers {
    events: HashMap<&'static str, Vec<EventHandler>>,
    states: HashMap<&'static str, Vec<EventHandler>>,
    ephemeral: HashMap<&'static str, Vec<EphemeralHandler>>,
}

impl Handlers {
    pub(crate) fn add<C, F, Fut>(&mut self, handler: F)
    where
        C: MessageLikeEventContent + StaticEventContent + DeserializeOwned + Send + 'static,
        F: Fn(Event<C>, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        let handler: EventHandler = Arc::new(move |incoming, context| match typed::<C>(incoming) {
            Some(event) => handler(event, context).boxed(),
            None => futures_util::future::ready(Ok(())).boxed(),
        });
        self.events.entry(C::TYPE).or_default().push(handler);
    }

    pub(crate) fn add_state<C, F, Fut>(&mut self, handler: F)
    where
        C: StateEventContent + StaticEventContent + DeserializeOwned + Send + 'static,
        F: Fn(StateEvent<C>, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        let handler: EventHandler = Arc::new(move |incoming, context| match typed_state::<C>(incoming) {
            Some(event) => handler(event, context).boxed(),
            None => futures_util::future::ready(Ok(())).boxed(),
        });
        self.states.entry(C::TYPE).or_default().push(handler);
    }

    pub(crate) fn add_ephemeral<C, F, Fut>(&mut self, handler: F)
    where
        C: StaticEventContent + DeserializeOwned + Send + 'static,
        F: Fn(Ephemeral<C>, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        let handler: EphemeralHandler =
            Arc::new(move |envelope, context| match serde_json::from_str(envelope.content.get()) {
                Ok(content) => handler(Ephemeral { room_id: envelope.room_id, content }, context).boxed(),
                Err(_) => futures_util::future::ready(Ok(())).boxed(),
            });
        self.ephemeral.entry(C::TYPE).or_default().push(handler);
    }

    /// Those of state if the event has a state key, and those of messages otherwise: anybody may send a message of a type that, as
    /// state, takes power.
    pub(crate) fn of_event(&self, envelope: &Envelope) -> &[EventHandler] {
        let handlers = if envelope.state_key.is_some() { &self.states } else { &self.events };
        handlers.get(envelope.event_type.as_str()).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn of_ephemeral(&self, event_type: &str) -> &[EphemeralHandler] {
        self.ephemeral.get(event_type).map_or(&[], Vec::as_slice)
    }
}

/// A content as this type. One that is not so was made by a stranger and is nobody's.
fn content<C: DeserializeOwned>(envelope: &Envelope) -> Option<C> {
    let content = serde_json::from_str(envelope.content.get());
    if let Err(error) = &content {
        tracing::debug!(event.id = %envelope.event_id, %error, "the content has another form");
    }
    content.ok()
}

fn typed<C: DeserializeOwned>(incoming: Incoming) -> Option<Event<C>> {
    let Incoming { envelope, encryption } = incoming;
    let content = content(&envelope)?;
    Some(Event {
        event_id: envelope.event_id,
        room_id: envelope.room_id,
        sender: envelope.sender,
        origin_server_ts: envelope.origin_server_ts,
        sticky_ms: envelope.sticky_ms,
        content,
        encryption,
    })
}

fn typed_state<C: DeserializeOwned>(incoming: Incoming) -> Option<StateEvent<C>> {
    let envelope = incoming.envelope;
    let content = content(&envelope)?;
    Some(StateEvent {
        event_id: envelope.event_id,
        room_id: envelope.room_id,
        sender: envelope.sender,
        origin_server_ts: envelope.origin_server_ts,
        state_key: envelope.state_key?,
        content,
    })
}

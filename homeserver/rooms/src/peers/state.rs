//! States and auth chains for other servers.

use std::sync::Arc;

use ruma::{EventId, OwnedEventId};

use crate::{
    Event, RoomError, RoomView,
    auth_chain::auth_chains_of,
    chain_store::{ChainStore, NewChains},
    state::EventNumber,
};

/// A state and what authorises it, by ids.
#[derive(Clone, Debug, Default)]
pub struct StateIds {
    /// The events of the state.
    pub state: Vec<OwnedEventId>,
    /// The events of its auth chain.
    pub auth_chain: Vec<OwnedEventId>,
}

impl RoomView {
    /// The state before an event, and what authorises it (S-S API, `GET /state`).
    pub async fn state_before(
        &self,
        event_id: &EventId,
    ) -> Result<(Vec<Arc<Event>>, Vec<Arc<Event>>), RoomError> {
        let event = self.event_by_id(event_id).await?.filter(|event| !event.is_outlier());
        let event = event.ok_or(RoomError::EventNotFound)?;
        let state = self.full_state(event.state_before()).await?;
        let numbers: Vec<EventNumber> = state.iter().map(|event| event.state_number()).collect();
        let chain = self.auth_chain(&numbers).await?;
        Ok((state, chain))
    }

    /// The state before an event, and what authorises it, by ids (S-S API, `GET /state_ids`).
    pub async fn state_ids_before(&self, event_id: &EventId) -> Result<StateIds, RoomError> {
        let (state, auth_chain) = self.state_before(event_id).await?;
        let ids = |events: Vec<Arc<Event>>| events.iter().map(|event| event.event_id.clone()).collect();
        Ok(StateIds { state: ids(state), auth_chain: ids(auth_chain) })
    }

    /// What authorises an event (S-S API, `GET /event_auth`).
    pub async fn auth_chain_of(&self, event_id: &EventId) -> Result<Vec<Arc<Event>>, RoomError> {
        let event = self.event_by_id(event_id).await?.ok_or(RoomError::EventNotFound)?;
        let mut numbers = Vec::with_capacity(event.auth_events().len());
        for id in event.auth_events() {
            numbers.extend(self.event_by_id(id).await?.map(|event| event.state_number()));
        }
        self.auth_chain(&numbers).await
    }

    /// These state events, and all that authorises them.
    pub(crate) async fn auth_chain(&self, numbers: &[EventNumber]) -> Result<Vec<Arc<Event>>, RoomError> {
        let new = NewChains::default();
        let chains = ChainStore { snapshot: &self.snapshot, room: self.room.number, new: &new };
        let chain = auth_chains_of(&chains, numbers).await?;
        self.events(&chain).await
    }
}

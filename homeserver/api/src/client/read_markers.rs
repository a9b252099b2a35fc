use axum::extract::State;
use entente_accounts::{AccountDataScope, AccountError, Session};
use entente_rooms::{NewReceipt, ReceiptType, RoomView, state::EventNumber};
use entente_storage::Bytes;
use ruma::{EventId, OwnedEventId, RoomId, api::client::read_marker::set_read_marker};
use serde::Deserialize;
use serde_json::json;

use crate::{ApiState, MatrixError};

/// The account data of a room that holds its fully-read marker (C-S API, "Fully read markers").
const FULLY_READ: &str = "m.fully_read";
/// How often a marker is tried to be set that others move meanwhile.
const MOST_ATTEMPTS: u32 = 16;

/// `POST /rooms/{roomId}/read_markers`.
pub(super) async fn set(
    State(state): State<ApiState>,
    session: Session,
    request: set_read_marker::v3::Request,
) -> Result<set_read_marker::v3::Response, MatrixError> {
    let room_id = &request.room_id;
    let marker = match &request.fully_read {
        Some(event_id) => Some(FullyRead::find(&state, &session, room_id, event_id).await?),
        None => None,
    };
    let receipt = |receipt_type, event_id: Option<OwnedEventId>| {
        event_id.map(|event_id| NewReceipt { receipt_type, thread: None, event_id })
    };
    let receipts: Vec<NewReceipt> = [
        receipt(ReceiptType::Read, request.read_receipt),
        receipt(ReceiptType::ReadPrivate, request.private_read_receipt),
    ]
    .into_iter()
    .flatten()
    .collect();
    state.rooms.acknowledge(room_id, &session.user_id, &receipts).await?;
    if let Some(marker) = marker {
        marker.set().await?;
    }
    Ok(set_read_marker::v3::Response::new())
}

/// A fully-read marker that its user may set.
pub(super) struct FullyRead<'a> {
    state: &'a ApiState,
    session: &'a Session,
    view: RoomView,
    event_id: &'a EventId,
    number: EventNumber,
}

impl<'a> FullyRead<'a> {
    pub(super) async fn find(
        state: &'a ApiState,
        session: &'a Session,
        room_id: &RoomId,
        event_id: &'a EventId,
    ) -> Result<Self, MatrixError> {
        let view = state.rooms.view(room_id).await?;
        let number = view.fully_readable(&session.user_id, event_id).await?;
        Ok(Self { state, session, view, event_id, number })
    }

    /// Sets the marker, unless it stands there or at a newer event already. Of devices that set it at the same time the furthest
    /// prevails.
    pub(super) async fn set(self) -> Result<(), MatrixError> {
        let (accounts, user_id) = (&self.state.accounts, &self.session.user_id);
        let scope = AccountDataScope::Room(&self.view.room.room_id);
        let content = Bytes::from(json!({ "event_id": self.event_id }).to_string());
        for _ in 0..MOST_ATTEMPTS {
            let found = match accounts.account_data(user_id, scope, FULLY_READ).await {
                Ok(content) => Some(content),
                Err(AccountError::NotFound(_)) => None,
                Err(error) => return Err(error.into()),
            };
            if self.place_of(found.as_ref()).await?.is_some_and(|present| present >= self.number) {
                return Ok(());
            }
            let if_still = |present: Option<&Bytes>| Ok((present == found.as_ref()).then(|| content.clone()));
            if accounts.change_account_data(user_id, scope, FULLY_READ, if_still).await? {
                return Ok(());
            }
        }
        Err(MatrixError::unavailable("the marker is being moved by many at once; try again"))
    }

    /// Where a marker stands.
    async fn place_of(&self, marker: Option<&Bytes>) -> Result<Option<EventNumber>, MatrixError> {
        #[derive(Deserialize)]
        struct Content {
            event_id: OwnedEventId,
        }
        match marker.and_then(|content| serde_json::from_slice::<Content>(content).ok()) {
            // The marker may have gone on since the view was taken.
            Some(content) => {
                let view = self.state.rooms.view(&self.view.room.room_id).await?;
                Ok(view.number_of(&content.event_id).await?)
            }
            None => Ok(None),
        }
    }
}

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

    /// Sets the marker, unless it stands there or at a newer event already.
    pub(super) async fn set(self) -> Result<(), MatrixError> {
        if self.present().await?.is_some_and(|present| present >= self.number) {
            return Ok(());
        }
        let content = Bytes::from(json!({ "event_id": self.event_id }).to_string());
        let scope = AccountDataScope::Room(&self.view.room.room_id);
        self.state.accounts.set_account_data(&self.session.user_id, scope, FULLY_READ, content).await?;
        Ok(())
    }

    /// Where the marker stands.
    async fn present(&self) -> Result<Option<EventNumber>, MatrixError> {
        #[derive(Deserialize)]
        struct Content {
            event_id: OwnedEventId,
        }
        let scope = AccountDataScope::Room(&self.view.room.room_id);
        let content = match self.state.accounts.account_data(&self.session.user_id, scope, FULLY_READ).await {
            Ok(content) => content,
            Err(AccountError::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match serde_json::from_slice::<Content>(&content) {
            Ok(content) => Ok(self.view.number_of(&content.event_id).await?),
            Err(_) => Ok(None),
        }
    }
}

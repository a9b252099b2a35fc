use ruma::{CanonicalJsonObject, RoomId, ServerName};

use crate::{FederationError, SharedRooms};

impl SharedRooms {
    /// Signs an event for a server in its room, as that room's policy server (S-S API, "Asking for a Policy Server signature on an
    /// event").
    pub async fn sign_as_policy_server(
        &self,
        origin: &ServerName,
        event: CanonicalJsonObject,
    ) -> Result<CanonicalJsonObject, FederationError> {
        let room_id = event.get("room_id").and_then(|room_id| room_id.as_str());
        let room_id = room_id.and_then(|room_id| RoomId::parse(room_id).ok());
        let room_id = room_id.ok_or(FederationError::BadEvent("the event is of no room"))?;
        let view = self.readable_view(origin, &room_id).await?;
        let pdu = self.verify_one(&view, event).await?;
        Ok(self.inner.rooms.sign_as_policy_server(&room_id, &pdu).await?)
    }
}

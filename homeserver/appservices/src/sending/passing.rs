//! What is worth telling only now: who types, what was read, who is here (MSC2409). It is not put down, and a service that is away
//! never hears of it.

use entente_rooms::{ReceiptType, receipt_content};
use ruma::UserId;
use serde_json::{Value, json};

use super::interests::Interests;
use crate::{AppServiceError, AppServices};

impl AppServices {
    /// Tells who types in a room.
    pub(super) async fn tell_typing(
        &self,
        room: u64,
        interests: &mut Interests,
    ) -> Result<(), AppServiceError> {
        if !wants_any(interests) {
            return Ok(());
        }
        let Some(view) = self.room_if_there(room).await? else { return Ok(()) };
        let interested = interests.in_room(&view).await?;
        let user_ids = view.typing(self.environment().now()).await?;
        let message = json!({
            "type": "m.typing", "room_id": view.room.room_id, "content": { "user_ids": user_ids },
        });
        for service in interested.iter().filter(|service| service.receive_ephemeral) {
            self.pass(&service.id, message.clone());
        }
        Ok(())
    }

    /// Tells how far somebody has read; what only they are to know, to whose user they are.
    pub(super) async fn tell_receipt(
        &self,
        room: u64,
        user_id: &str,
        private: bool,
        interests: &mut Interests,
    ) -> Result<(), AppServiceError> {
        let Ok(user_id) = UserId::parse(user_id) else { return Ok(()) };
        if !wants_any(interests) {
            return Ok(());
        }
        let Some(view) = self.room_if_there(room).await? else { return Ok(()) };
        let (interested, receipt_type) = if private {
            (interests.of_user(user_id.as_str()).collect(), ReceiptType::ReadPrivate)
        } else {
            (interests.in_room(&view).await?, ReceiptType::Read)
        };
        let Some(receipt) = view.newest_receipt(&user_id, receipt_type).await? else { return Ok(()) };
        let message = json!({
            "type": "m.receipt", "room_id": view.room.room_id, "content": receipt_content([receipt]),
        });
        for service in interested.iter().filter(|service| service.receive_ephemeral) {
            self.pass(&service.id, message.clone());
        }
        Ok(())
    }

    /// Tells who is here.
    pub(super) async fn tell_presence(
        &self,
        localparts: &[String],
        interests: &mut Interests,
    ) -> Result<(), AppServiceError> {
        if !wants_any(interests) {
            return Ok(());
        }
        for localpart in localparts {
            let server_name = self.rooms().server_name();
            let Ok(user_id) = UserId::parse_with_server_name(localpart.as_str(), server_name) else {
                continue;
            };
            let wants = |service: &crate::Registration| service.receive_ephemeral;
            let interested = self.sharing_rooms(user_id.as_str(), interests, wants).await?;
            if interested.is_empty() {
                continue;
            }
            let presence = self.accounts().presence(&user_id).await?;
            let mut content = json!({ "presence": presence.state.as_str() });
            if let Some(message) = &presence.status_msg {
                content["status_msg"] = Value::from(message.as_str());
            }
            if let Some(ago) = self.accounts().last_active_ago(&presence) {
                content["last_active_ago"] = Value::from(ago);
            }
            let message = json!({ "type": "m.presence", "sender": user_id, "content": content });
            for service in interested {
                self.pass(&service.id, message.clone());
            }
        }
        Ok(())
    }
}

fn wants_any(interests: &Interests) -> bool {
    interests.services().iter().any(|service| service.receive_ephemeral)
}

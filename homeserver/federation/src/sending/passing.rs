//! What is worth telling only now: who types, what was read. It is not put down, and a server that is away never hears of it.

use std::collections::{BTreeSet, HashMap};

use entente_rooms::{Receipt, RoomView};
use parking_lot::Mutex;
use ruma::{CanonicalJsonObject, CanonicalJsonValue, Int, OwnedUserId, ServerName, UserId};

use super::Outbox;
use crate::FederationError;

/// Who types in which room, as other servers were told last.
#[derive(Debug, Default)]
pub(super) struct Typists {
    told: Mutex<HashMap<u64, BTreeSet<OwnedUserId>>>,
}

impl Outbox {
    /// Tells the other servers in a room which of this server's users began or ceased to type.
    pub(super) async fn tell_typing(&self, room: u64) -> Result<(), FederationError> {
        let view = self.inner.rooms.view_of(room).await?;
        let servers = view.servers().await?;
        let mut typing = BTreeSet::new();
        if !servers.is_empty() {
            let all = view.typing(self.inner.environment.now()).await?;
            typing
                .extend(all.into_iter().filter(|user_id| self.inner.rooms.local(user_id.as_str()).is_some()));
        }
        let before = {
            let mut told = self.inner.typists.told.lock();
            if typing.is_empty() { told.remove(&room) } else { told.insert(room, typing.clone()) }
        };
        let before = before.unwrap_or_default();
        for user_id in before.symmetric_difference(&typing) {
            let content = object([
                ("room_id", text(view.room.room_id.as_str())),
                ("user_id", text(user_id.as_str())),
                ("typing", CanonicalJsonValue::Bool(typing.contains(user_id))),
            ]);
            self.tell_now(&servers, "m.typing", &content);
        }
        Ok(())
    }

    /// Tells the other servers in a room what one of this server's users read.
    pub(super) async fn tell_receipt(&self, room: u64, user_id: &str) -> Result<(), FederationError> {
        let Ok(user_id) = <&UserId>::try_from(user_id) else { return Ok(()) };
        if self.inner.rooms.local(user_id.as_str()).is_none() {
            return Ok(());
        }
        let view = self.inner.rooms.view_of(room).await?;
        let servers = view.servers().await?;
        if servers.is_empty() {
            return Ok(());
        }
        if let Some(receipt) = view.newest_receipt_of(user_id).await? {
            self.tell_now(&servers, "m.receipt", &receipt_content(&view, &receipt));
        }
        Ok(())
    }

    /// Sends a message to those servers that are there.
    pub(super) fn tell_now(&self, servers: &[String], kind: &str, content: &CanonicalJsonObject) {
        let message =
            object([("edu_type", text(kind)), ("content", CanonicalJsonValue::Object(content.clone()))]);
        for server in servers {
            let Ok(server) = ServerName::parse(server) else { continue };
            let client = &self.inner.client;
            if client.policy().check_outbound(&server).is_ok() && client.destinations().check(&server).is_ok()
            {
                self.pass(&server, message.clone());
            }
        }
    }
}

fn receipt_content(view: &RoomView, receipt: &Receipt) -> CanonicalJsonObject {
    let mut data = object([("ts", whole(receipt.ts))]);
    if let Some(thread) = &receipt.thread {
        data.insert(String::from("thread_id"), text(thread));
    }
    let of_user = object([
        ("data", CanonicalJsonValue::Object(data)),
        ("event_ids", CanonicalJsonValue::Array(vec![text(&receipt.event_id)])),
    ]);
    let users = CanonicalJsonObject::from([(receipt.user_id.clone(), CanonicalJsonValue::Object(of_user))]);
    let kinds = object([("m.read", CanonicalJsonValue::Object(users))]);
    CanonicalJsonObject::from([(view.room.room_id.to_string(), CanonicalJsonValue::Object(kinds))])
}

pub(super) fn object<const N: usize>(pairs: [(&str, CanonicalJsonValue); N]) -> CanonicalJsonObject {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

pub(super) fn text(text: &str) -> CanonicalJsonValue {
    CanonicalJsonValue::String(text.to_owned())
}

pub(super) fn whole(number: u64) -> CanonicalJsonValue {
    CanonicalJsonValue::Integer(Int::try_from(number).unwrap_or(Int::MAX))
}

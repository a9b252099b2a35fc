//! What is worth telling only now: who types, what was read. It is not put down: with the process it is forgotten. A server that is away
//! hears of what was read when it is back, and of who still types then.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use entente_rooms::{Receipt, RoomView};
use parking_lot::Mutex;
use ruma::{CanonicalJsonObject, CanonicalJsonValue, Int, OwnedUserId, ServerName, UserId};

use super::Outbox;
use crate::FederationError;

/// After so long it is told again who goes on typing: servers that were not there learn of it, and no server believes it for ever.
const REPEAT: Duration = Duration::from_secs(20);

const RECEIPT: &str = "m.receipt";

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
            self.tell_now(&servers, "m.typing", &typing_content(&view, user_id, typing.contains(user_id)));
        }
        Ok(())
    }

    /// Tells other servers now and then who goes on typing, for as long as it is polled.
    pub(super) async fn repeat_typing(&self) {
        loop {
            tokio::time::sleep(REPEAT).await;
            let told: Vec<(u64, BTreeSet<OwnedUserId>)> =
                self.inner.typists.told.lock().iter().map(|(room, users)| (*room, users.clone())).collect();
            for (room, users) in told {
                if let Err(error) = self.tell_typing_again(room, &users).await {
                    tracing::warn!(%error, "it is not told again who types");
                }
            }
        }
    }

    async fn tell_typing_again(
        &self,
        room: u64,
        users: &BTreeSet<OwnedUserId>,
    ) -> Result<(), FederationError> {
        let view = self.inner.rooms.view_of(room).await?;
        let servers = view.servers().await?;
        // Who ceased is told of by the log.
        for user_id in view.typing(self.inner.environment.now()).await? {
            if users.contains(&user_id) {
                self.tell_now(&servers, "m.typing", &typing_content(&view, &user_id, true));
            }
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
            self.tell(&servers, RECEIPT, &receipt_content(&view, &receipt), |_| true);
        }
        Ok(())
    }

    /// Sends a message to those servers that are there.
    pub(super) fn tell_now(&self, servers: &[String], kind: &str, content: &CanonicalJsonObject) {
        let destinations = self.inner.client.destinations();
        self.tell(servers, kind, content, |server| destinations.check(server).is_ok());
    }

    /// Sends a message to those servers of which that is wanted.
    fn tell(
        &self,
        servers: &[String],
        kind: &str,
        content: &CanonicalJsonObject,
        is_wanted: impl Fn(&ServerName) -> bool,
    ) {
        let message =
            object([("edu_type", text(kind)), ("content", CanonicalJsonValue::Object(content.clone()))]);
        for server in servers {
            let Ok(server) = ServerName::parse(server) else { continue };
            if self.inner.client.policy().check_outbound(&server).is_ok() && is_wanted(&server) {
                self.pass(&server, message.clone());
            }
        }
    }
}

/// Whether a message tells what was read.
pub(super) fn is_receipt(message: &CanonicalJsonObject) -> bool {
    message.get("edu_type").and_then(CanonicalJsonValue::as_str) == Some(RECEIPT)
}

fn typing_content(view: &RoomView, user_id: &UserId, typing: bool) -> CanonicalJsonObject {
    object([
        ("room_id", text(view.room.room_id.as_str())),
        ("user_id", text(user_id.as_str())),
        ("typing", CanonicalJsonValue::Bool(typing)),
    ])
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

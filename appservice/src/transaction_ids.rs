//! Ids of what is sent, such that a handler that runs again sends the same things once.
//!
//! While an event is handled, what is sent gets an id that follows from the event, the sender, the room, the type, and how many of
//! these were sent before. When the process dies before the homeserver's transaction was acknowledged, the handler runs again, sends
//! under the same ids, and the homeserver answers with the events that are already there.
//!
//! This holds for what the handler's own task sends, in an order that does not depend on chance for one sender, room and type.
//! A task that the handler spawns, and whatever is sent outside of handlers, gets random ids.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Mutex, PoisonError},
};

use entente_environment::Environment;
use matrix_sdk::ruma::{OwnedTransactionId, RoomId, UserId};
use sha2::{Digest as _, Sha256};

use crate::localpart::hexadecimal;

tokio::task_local! {
    static HANDLED: Handled;
}

struct Handled {
    event_id: String,
    sent: Mutex<HashMap<String, u32>>,
}

/// Runs a handler of the event.
pub(crate) async fn handling<T>(event_id: &str, handler: impl Future<Output = T>) -> T {
    let handled = Handled { event_id: event_id.to_owned(), sent: Mutex::default() };
    HANDLED.scope(handled, handler).await
}

/// The id of the next thing that is sent.
pub(crate) fn next(
    environment: &Environment,
    sender: &UserId,
    room_id: &RoomId,
    event_type: &str,
) -> OwnedTransactionId {
    let derived = HANDLED.try_with(|handled| handled.next(sender, room_id, event_type));
    derived.unwrap_or_else(|_| format!("r{}", environment.randomness().alphanumeric(32))).into()
}

impl Handled {
    fn next(&self, sender: &UserId, room_id: &RoomId, event_type: &str) -> String {
        // None of the parts has a line break but, perhaps, the last.
        let what = format!("{}\n{sender}\n{room_id}\n{event_type}", self.event_id);
        let digest = hexadecimal(&Sha256::digest(what.as_bytes()));
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let count = sent.entry(what).or_default();
        *count += 1;
        format!("e{digest}.{count}")
    }
}

#[cfg(test)]
mod tests {
    use matrix_sdk::ruma::{room_id, user_id};

    use super::*;

    async fn three(event_id: &str) -> [OwnedTransactionId; 3] {
        let environment = Environment::system();
        let (alice, room) = (user_id!("@alice:x"), room_id!("!a:x"));
        handling(event_id, async {
            [
                next(&environment, alice, room, "m.room.message"),
                next(&environment, alice, room, "m.room.message"),
                next(&environment, user_id!("@bob:x"), room, "m.room.message"),
            ]
        })
        .await
    }

    #[tokio::test]
    async fn a_handler_that_runs_again_sends_under_the_same_ids() {
        let first = three("$a").await;
        assert_eq!(first, three("$a").await);
        assert!(first[0] != first[1] && first[1] != first[2] && first[0] != first[2]);
        assert!(three("$b").await.iter().all(|id| !first.contains(id)));
    }

    #[tokio::test]
    async fn outside_of_handlers_ids_are_random() {
        let environment = Environment::system();
        let id = || next(&environment, user_id!("@alice:x"), room_id!("!a:x"), "m.room.message");
        assert_ne!(id(), id());
    }
}

//! What the tests with `matrix-sdk` share: clients that sync in the background and remember what they read.

#![recursion_limit = "256"]
#![expect(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test fails by panicking")]

pub mod bot;
pub mod verifying;

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use entente_tests::Server;
use matrix_sdk::{
    Client, Room,
    config::SyncSettings,
    deserialized_responses::EncryptionInfo,
    encryption::{BackupDownloadStrategy, EncryptionSettings},
    ruma::{
        OwnedEventId, OwnedUserId, RoomId, UserId,
        api::client::filter::FilterDefinition,
        events::{
            reaction::OriginalSyncReactionEvent,
            room::message::{OriginalSyncRoomMessageEvent, Relation},
        },
    },
};
use tokio::task::JoinHandle;

/// The password of every account.
pub const PASSWORD: &str = "correct horse battery staple";
/// The longest that anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A message as somebody read it.
#[derive(Clone, Debug)]
pub struct Read {
    /// Its id.
    pub event_id: OwnedEventId,
    /// Who sent it.
    pub sender: OwnedUserId,
    /// Its text, or a reaction's key.
    pub body: String,
    /// Whether it came encrypted and was decrypted.
    pub encrypted: bool,
    /// `m.replace`, `m.thread`, `reply`, `m.annotation`, or nothing.
    pub relation: &'static str,
    /// The event that it relates to.
    pub related: Option<OwnedEventId>,
}

/// Somebody on a device.
pub struct Person {
    /// The client.
    pub client: Client,
    read: Arc<Mutex<Vec<Read>>>,
    syncing: JoinHandle<()>,
}

impl Drop for Person {
    fn drop(&mut self) {
        self.syncing.abort();
    }
}

/// Waits until something is there.
#[expect(clippy::disallowed_methods, reason = "tests read the time")]
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, look: impl Fn() -> F) -> T {
    let give_up_at = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < give_up_at, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

impl Person {
    /// Logs in on a new device and begins to sync. The account is there already.
    pub async fn log_in(server: &Server, name: &str, device: &str) -> Self {
        Self::log_in_at(&server.base_url, name, device).await
    }

    /// The same at any homeserver.
    pub async fn log_in_at(base_url: &str, name: &str, device: &str) -> Self {
        let settings = EncryptionSettings {
            auto_enable_cross_signing: true,
            backup_download_strategy: BackupDownloadStrategy::AfterDecryptionFailure,
            auto_enable_backups: false,
        };
        let builder = Client::builder().homeserver_url(base_url).with_encryption_settings(settings);
        let client = builder.build().await.unwrap();
        let login = client.matrix_auth().login_username(name, PASSWORD).initial_device_display_name(device);
        login.send().await.unwrap();
        client.encryption().wait_for_e2ee_initialization_tasks().await;
        let read = Arc::new(Mutex::new(Vec::new()));
        remember_messages(&client, &read);
        let syncing = tokio::spawn({
            let client = client.clone();
            async move {
                // As apps do. Without it Synapse does not say how many are in a room, by which the client knows a talk of two.
                let filter = FilterDefinition::with_lazy_loading().into();
                let settings = SyncSettings::default().timeout(Duration::from_secs(10)).filter(filter);
                let ended = client.sync(settings).await;
                assert!(ended.is_ok(), "{ended:?}");
            }
        });
        Self { client, read, syncing }
    }

    /// The user.
    pub fn id(&self) -> OwnedUserId {
        self.client.user_id().unwrap().to_owned()
    }

    /// The room, once the client knows it.
    pub async fn room(&self, room_id: &RoomId) -> Room {
        eventually("the room", || async { self.client.get_room(room_id) }).await
    }

    /// The first message that somebody sent with this text.
    pub async fn reads(&self, sender: &Person, body: &str) -> Read {
        self.reads_from(&sender.id(), body).await
    }

    /// All messages and reactions of a user, as they came.
    pub fn read_from(&self, sender: &UserId) -> Vec<Read> {
        let read = self.read.lock().unwrap();
        read.iter().filter(|read| read.sender == sender).cloned().collect()
    }

    /// The first message of a user with this text.
    pub async fn reads_from(&self, sender: &UserId, body: &str) -> Read {
        eventually(body, || async {
            let read = self.read.lock().unwrap();
            read.iter().find(|read| read.sender == sender && read.body == body).cloned()
        })
        .await
    }
}

fn remember_messages(client: &Client, read: &Arc<Mutex<Vec<Read>>>) {
    let messages = Arc::clone(read);
    client.add_event_handler(
        move |event: OriginalSyncRoomMessageEvent, info: Option<EncryptionInfo>| async move {
            let (relation, related) = match &event.content.relates_to {
                Some(Relation::Replacement(edit)) => ("m.replace", Some(edit.event_id.clone())),
                Some(Relation::Thread(thread)) => ("m.thread", Some(thread.event_id.clone())),
                Some(Relation::Reply(reply)) => ("reply", Some(reply.in_reply_to.event_id.clone())),
                _ => ("", None),
            };
            messages.lock().unwrap().push(Read {
                event_id: event.event_id,
                sender: event.sender,
                body: event.content.body().to_owned(),
                encrypted: info.is_some(),
                relation,
                related,
            });
        },
    );
    let reactions = Arc::clone(read);
    client.add_event_handler(
        move |event: OriginalSyncReactionEvent, info: Option<EncryptionInfo>| async move {
            let annotation = event.content.relates_to;
            reactions.lock().unwrap().push(Read {
                event_id: event.event_id,
                sender: event.sender,
                body: annotation.key,
                encrypted: info.is_some(),
                relation: "m.annotation",
                related: Some(annotation.event_id),
            });
        },
    );
}

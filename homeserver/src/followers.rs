//! What follows the change log inside this process. Each follower reads from its own stored cursor: a crash loses nothing,
//! and repeats at most what bears to be repeated.

use std::collections::BTreeSet;

use entente_accounts::{AccountError, Accounts, Change};
use entente_encryption::{Encryption, EncryptionError};
use entente_rooms::{Membership, Profile, RoomError, RoomNumber, Rooms, Succession, state::EventNumber};
use entente_storage::{Follower, LogEntry, StartFrom, StorageError, Store, keep_following};
use entente_sync::{Sync, SyncError};
use ruma::{OwnedUserId, UserId};
use serde_json::Value;

/// Records that are read at once.
const MOST_RECORDS: usize = 256;
/// Records that may pass unnoticed before the cursor is stored: so many are read again after a crash.
const MOST_PASSED: usize = 4_096;
/// The follower that does elsewhere what follows from changes of accounts, and in accounts what follows from those of rooms.
const NAME: &str = "accounts.consequences";

/// What changes of accounts have consequences for, and what changes of rooms have for accounts.
#[derive(Clone, Debug)]
pub(crate) struct Consequences {
    pub(crate) store: Store,
    pub(crate) accounts: Accounts,
    pub(crate) encryption: Encryption,
    pub(crate) rooms: Rooms,
    pub(crate) sync: Sync,
}

#[derive(Debug, thiserror::Error)]
enum FollowerError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error(transparent)]
    Encryption(#[from] EncryptionError),
    #[error(transparent)]
    Room(#[from] RoomError),
    #[error(transparent)]
    Sync(#[from] SyncError),
}

impl FollowerError {
    fn is_conflict(&self) -> bool {
        match self {
            Self::Storage(error)
            | Self::Account(AccountError::Storage(error))
            | Self::Encryption(EncryptionError::Storage(error))
            | Self::Room(RoomError::Storage(error))
            | Self::Sync(SyncError::Storage(error)) => error.is_conflict(),
            _ => false,
        }
    }
}

impl Consequences {
    /// Does what follows from changes of accounts, for as long as it is polled: keys of devices that are gone are deleted, new
    /// profiles are shown in rooms, who deactivated their account leaves them, who was suspended says nothing later, and who follows a
    /// room into the one that replaced it finds it as the old one was.
    pub(crate) async fn follow(self) {
        keep_following(NAME, FollowerError::is_conflict, || self.follow_until_failure()).await;
    }

    async fn follow_until_failure(&self) -> Result<std::convert::Infallible, FollowerError> {
        let mut follower = Follower::open(&self.store, NAME, StartFrom::Beginning).await?;
        let mut passed = 0;
        loop {
            let records = follower.next(MOST_RECORDS).await?;
            let mut acted = false;
            for entry in records.iter().flat_map(|record| &record.entries) {
                acted |= self.act_on_entry(entry).await?;
            }
            passed += records.len();
            // Storing the cursor is a durable commit: not for every record that is none of this follower's business.
            if acted || passed >= MOST_PASSED {
                follower.advance().await?;
                passed = 0;
            }
        }
    }

    /// Answers whether there was anything to do.
    async fn act_on_entry(&self, entry: &LogEntry) -> Result<bool, FollowerError> {
        match entry.topic {
            entente_accounts::TOPIC => match Change::from_payload(&entry.payload) {
                Ok(change) => return self.act_on(&change).await,
                Err(error) => tracing::error!(%error, "a log entry about an account cannot be read"),
            },
            entente_rooms::TOPIC => match entente_rooms::Change::from_payload(&entry.payload) {
                Ok(change) => return self.act_on_room(&change).await,
                Err(error) => tracing::error!(%error, "a log entry about a room cannot be read"),
            },
            _ => {}
        }
        Ok(false)
    }

    async fn act_on_room(&self, change: &entente_rooms::Change) -> Result<bool, FollowerError> {
        if let entente_rooms::Change::GuestsRefused { room } = change {
            return self.send_guests_away(RoomNumber(*room)).await;
        }
        let entente_rooms::Change::Event { room, number, member: Some((user_id, Membership::Join)), .. } =
            change
        else {
            return Ok(false);
        };
        let (room, number) = (RoomNumber(*room), EventNumber(*number));
        match self.rooms.succession(room, number, user_id).await? {
            Some(Succession { user_id, old, new }) => {
                Ok(self.accounts.succeed_room(&user_id, &old, &new).await?)
            }
            None => Ok(false),
        }
    }

    async fn act_on(&self, change: &Change) -> Result<bool, FollowerError> {
        match change {
            Change::Deactivated { localpart, .. } => {
                self.forget_devices(localpart).await?;
                if let Some(user_id) = self.user_id(localpart) {
                    self.encryption.forget_user(&user_id).await?;
                }
                self.leave_rooms(localpart).await?;
                self.rooms.forget_delayed(localpart).await?;
                self.accounts.forget_presence(localpart).await?;
                Ok(true)
            }
            Change::Devices { localpart, .. } => self.forget_devices(localpart).await,
            Change::Status { localpart } => self.silence(localpart).await,
            Change::Profile { localpart, field } if field == "displayname" || field == "avatar_url" => {
                self.show_profile(localpart).await?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Who was locked or suspended says nothing later either.
    async fn silence(&self, localpart: &str) -> Result<bool, FollowerError> {
        let Some(user_id) = self.user_id(localpart) else { return Ok(false) };
        let status = match self.accounts.status(&user_id).await {
            Err(AccountError::UserNotFound) => return Ok(false),
            status => status?,
        };
        if status.locked || status.suspended {
            self.rooms.silence_delayed(localpart).await?;
        }
        Ok(status.locked || status.suspended)
    }

    fn user_id(&self, localpart: &str) -> Option<OwnedUserId> {
        UserId::parse_with_server_name(localpart, self.accounts.server_name()).ok()
    }

    async fn forget_devices(&self, localpart: &str) -> Result<bool, FollowerError> {
        let Some(user_id) = self.user_id(localpart) else { return Ok(false) };
        let names = self.accounts.device_names(None, localpart).await?;
        let present: BTreeSet<String> = names.into_iter().map(|(device_id, _)| device_id).collect();
        let mut acted = false;
        for device_id in self.encryption.devices_with_keys(localpart).await? {
            if !present.contains(&device_id) {
                self.encryption.forget_device(&user_id, &device_id).await?;
                acted = true;
            }
        }
        for device_id in self.sync.devices_with_connections(localpart).await? {
            if !present.contains(&device_id) {
                self.sync.forget_device(localpart, &device_id).await?;
                acted = true;
            }
        }
        Ok(acted)
    }

    async fn show_profile(&self, localpart: &str) -> Result<(), FollowerError> {
        let Some(user_id) = self.user_id(localpart) else { return Ok(()) };
        let fields = match self.accounts.profile(&user_id).await {
            Err(AccountError::UserNotFound | AccountError::UserDeactivated) => return Ok(()),
            fields => fields?,
        };
        let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
        let profile = Profile { displayname: text("displayname"), avatar_url: text("avatar_url") };
        for room_id in self.rooms.rooms_of(&user_id, Membership::Join).await? {
            match self.rooms.update_member_profile(&room_id, &user_id, &profile).await {
                // A room may forbid it: then its members go on seeing the old one.
                Err(RoomError::Unauthorized(_) | RoomError::TooLarge(_)) => {}
                outcome => outcome?,
            }
        }
        Ok(())
    }

    /// Guests leave a room that lets none in any more.
    async fn send_guests_away(&self, room: RoomNumber) -> Result<bool, FollowerError> {
        let Some((room_id, members)) = self.rooms.joined_local_members(room).await? else { return Ok(false) };
        let guests = self.accounts.guests_among(&members).await?;
        for user_id in guests.iter().filter_map(|localpart| self.user_id(localpart)) {
            match self.rooms.leave(&room_id, &user_id, None).await {
                Err(RoomError::Unauthorized(_) | RoomError::Forbidden(_)) => {}
                outcome => outcome?,
            }
        }
        Ok(!guests.is_empty())
    }

    async fn leave_rooms(&self, localpart: &str) -> Result<(), FollowerError> {
        let Some(user_id) = self.user_id(localpart) else { return Ok(()) };
        for membership in [Membership::Join, Membership::Invite, Membership::Knock] {
            for room_id in self.rooms.rooms_of(&user_id, membership).await? {
                match self.rooms.leave(&room_id, &user_id, None).await {
                    Err(RoomError::Unauthorized(_) | RoomError::Forbidden(_)) => {}
                    outcome => outcome?,
                }
            }
        }
        Ok(())
    }
}

use std::collections::{BTreeMap, HashSet};

use entente_storage::{Bytes, LogPosition, Position, Snapshot, Transaction, value::Stamped};
use ruma::{RoomId, UserId};

use crate::{AccountError, Accounts, Change, push_rules, rows};

/// Account data of one type has at most this many bytes.
pub(crate) const MOST_BYTES: usize = 1024 * 1024;
/// An event type has at most this many bytes.
const MOST_TYPE_BYTES: usize = 255;
const TOO_LARGE: AccountError = AccountError::TooLarge("account data has at most 1 MiB, its type 255 bytes");
/// Where clients said that they want no invites before MSC4380 was merged.
const UNSTABLE_INVITE_PERMISSION: &str = "org.matrix.msc4380.invite_permission_config";

/// What account data is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountDataScope<'a> {
    /// The user as a whole.
    Global,
    /// The user in one room.
    Room(&'a RoomId),
}

/// Account data of one type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountDataEntry {
    /// The room that it is about; empty for global data.
    pub room_id: String,
    /// Its type.
    pub event_type: String,
    /// Its content, a JSON object.
    pub content: Bytes,
}

impl AccountDataScope<'_> {
    fn as_str(&self) -> &str {
        match self {
            Self::Global => "",
            Self::Room(room_id) => room_id.as_str(),
        }
    }
}

impl Accounts {
    /// The content of account data, as the client sent it.
    pub async fn account_data(
        &self,
        user_id: &UserId,
        scope: AccountDataScope<'_>,
        event_type: &str,
    ) -> Result<Bytes, AccountError> {
        let key = (self.local(user_id)?, scope.as_str(), event_type);
        let snapshot = self.snapshot().await?;
        if scope == AccountDataScope::Global && event_type == push_rules::EVENT_TYPE {
            return self.push_rules_content(&snapshot, key.0).await;
        }
        let row = snapshot.get(&rows::ACCOUNT_DATA, key).await?;
        let content = row.map(|row| row.value).filter(|content| !content.is_empty());
        content.ok_or(AccountError::NotFound("there is no account data of this type"))
    }

    /// The account data of a local user that was set after a position, global and of rooms, as a snapshot has it; `None`: all
    /// there is. Data that was deleted since is told as an empty object.
    pub async fn account_data_since(
        &self,
        snapshot: &Snapshot,
        localpart: &str,
        since: Option<&Position>,
    ) -> Result<Vec<AccountDataEntry>, AccountError> {
        let rows = snapshot.scan_all(rows::ACCOUNT_DATA.scan((localpart,))).await?;
        let entry = |((_, room_id, event_type), row): ((String, String, String), Stamped<Bytes>)| {
            let is_new = since.is_none_or(|since| !since.includes(row.position));
            let is_deleted = row.value.is_empty();
            if !is_new || (is_deleted && since.is_none()) {
                return None;
            }
            let content = if is_deleted { Bytes::from_static(b"{}") } else { row.value };
            Some(AccountDataEntry { room_id, event_type, content })
        };
        let mut entries: Vec<AccountDataEntry> = rows.into_iter().filter_map(entry).collect();
        // Everybody has push rules, and stored ones may lack newer defaults.
        let is_rules =
            |entry: &AccountDataEntry| entry.room_id.is_empty() && entry.event_type == push_rules::EVENT_TYPE;
        if since.is_none() || entries.iter().any(is_rules) {
            entries.retain(|entry| !is_rules(entry));
            entries.push(AccountDataEntry {
                room_id: String::new(),
                event_type: push_rules::EVENT_TYPE.to_owned(),
                content: self.push_rules_content(snapshot, localpart).await?,
            });
        }
        Ok(entries)
    }

    /// All account data of a user about one room.
    pub async fn room_account_data(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
    ) -> Result<Vec<AccountDataEntry>, AccountError> {
        let localpart = self.local(user_id)?;
        let scan = rows::ACCOUNT_DATA.scan((localpart, room_id.as_str()));
        let rows = self.snapshot().await?.scan_all(scan).await?;
        let present = rows.into_iter().filter(|(_, row)| !row.value.is_empty());
        Ok(present
            .map(|((_, room_id, event_type), row)| AccountDataEntry {
                room_id,
                event_type,
                content: row.value,
            })
            .collect())
    }

    /// Whom a local user ignores (C-S API, "Ignoring Users").
    pub async fn ignored_users(
        &self,
        snapshot: &Snapshot,
        localpart: &str,
    ) -> Result<Vec<String>, AccountError> {
        #[derive(serde::Deserialize)]
        struct Content {
            ignored_users: serde_json::Map<String, serde_json::Value>,
        }
        let row = snapshot.get(&rows::ACCOUNT_DATA, (localpart, "", "m.ignored_user_list")).await?;
        let content = row.and_then(|row| serde_json::from_slice::<Content>(&row.value).ok());
        Ok(content
            .map(|content| content.ignored_users.into_iter().map(|(user_id, _)| user_id).collect())
            .unwrap_or_default())
    }

    /// The rooms that a local user has for direct chats (C-S API, "Direct Messaging").
    pub async fn direct_rooms(
        &self,
        snapshot: &Snapshot,
        localpart: &str,
    ) -> Result<HashSet<String>, AccountError> {
        let row = snapshot.get(&rows::ACCOUNT_DATA, (localpart, "", "m.direct")).await?;
        let content: Option<BTreeMap<String, serde_json::Value>> =
            row.and_then(|row| serde_json::from_slice(&row.value).ok());
        let rooms = content.into_iter().flat_map(BTreeMap::into_values);
        Ok(rooms.filter_map(|rooms| serde_json::from_value::<Vec<String>>(rooms).ok()).flatten().collect())
    }

    /// The tags that a local user gave a room (C-S API, "Room Tagging").
    pub async fn room_tags(
        &self,
        snapshot: &Snapshot,
        localpart: &str,
        room_id: &str,
    ) -> Result<HashSet<String>, AccountError> {
        #[derive(serde::Deserialize)]
        struct Content {
            tags: BTreeMap<String, serde_json::Value>,
        }
        let row = snapshot.get(&rows::ACCOUNT_DATA, (localpart, room_id, "m.tag")).await?;
        let content = row.and_then(|row| serde_json::from_slice::<Content>(&row.value).ok());
        Ok(content.map(|content| content.tags.into_keys().collect()).unwrap_or_default())
    }

    /// Whether a local user wants no invites (C-S API, "Invite permission"; also in the words of MSC4380 before it was merged).
    pub async fn blocks_invites(&self, snapshot: &Snapshot, localpart: &str) -> Result<bool, AccountError> {
        #[derive(serde::Deserialize)]
        struct Content {
            default_action: Option<serde_json::Value>,
            block_all: Option<serde_json::Value>,
        }
        let keys =
            [(localpart, "", "m.invite_permission_config"), (localpart, "", UNSTABLE_INVITE_PERMISSION)];
        let rows = snapshot.get_many(&rows::ACCOUNT_DATA, keys).await?.into_iter();
        let read = |row: Option<Stamped<Bytes>>| serde_json::from_slice::<Content>(&row?.value).ok();
        let mut contents = rows.map(read);
        let (stable, unstable) = (contents.next().flatten(), contents.next().flatten());
        let says_block = stable
            .and_then(|content| content.default_action)
            .is_some_and(|action| action.as_str() == Some("block"));
        let says_all = unstable.and_then(|content| content.block_all) == Some(serde_json::Value::Bool(true));
        Ok(says_block || says_all)
    }

    /// Refuses an invite to a local user who wants none; those of other servers are asked there.
    pub async fn require_invitable(&self, user_id: &UserId) -> Result<(), AccountError> {
        let Ok(localpart) = self.local(user_id) else { return Ok(()) };
        if self.blocks_invites(&self.snapshot().await?, localpart).await? {
            return Err(AccountError::InviteBlocked);
        }
        Ok(())
    }

    /// Changes account data of one type: `change` gets the present content and answers the new one, a JSON object; `None`
    /// leaves it as it is. Answers whether it was changed. Nothing comes between the look and the change.
    pub async fn change_account_data(
        &self,
        user_id: &UserId,
        scope: AccountDataScope<'_>,
        event_type: &str,
        change: impl Fn(Option<&Bytes>) -> Result<Option<Bytes>, AccountError>,
    ) -> Result<bool, AccountError> {
        let localpart = self.local(user_id)?;
        let key = (localpart, scope.as_str(), event_type);
        let change = &change;
        let (changed, _) = self
            .store()
            .run(async |snapshot| {
                let mut transaction = Transaction::new();
                let row = snapshot.get(&rows::ACCOUNT_DATA, key).await?;
                let present = row.as_ref().map(|row| &row.value).filter(|content| !content.is_empty());
                let Some(content) = change(present)? else { return Ok((transaction, false)) };
                if content.len() > MOST_BYTES {
                    return Err(TOO_LARGE);
                }
                transaction.check_unchanged(&rows::ACCOUNT_DATA, key, row.as_ref());
                put(&mut transaction, localpart, scope, event_type, content);
                Ok((transaction, true))
            })
            .await?;
        Ok(changed)
    }

    /// Stores account data. `content` is a JSON object.
    pub async fn set_account_data(
        &self,
        user_id: &UserId,
        scope: AccountDataScope<'_>,
        event_type: &str,
        content: Bytes,
    ) -> Result<(), AccountError> {
        if content.len() > MOST_BYTES || event_type.len() > MOST_TYPE_BYTES {
            return Err(TOO_LARGE);
        }
        let localpart = self.local(user_id)?;
        let mut transaction = Transaction::new();
        put(&mut transaction, localpart, scope, event_type, content);
        self.store().commit(transaction).await?;
        Ok(())
    }
}

fn put(
    transaction: &mut Transaction,
    localpart: &str,
    scope: AccountDataScope<'_>,
    event_type: &str,
    content: Bytes,
) {
    let row = Stamped { position: LogPosition::AT_COMMIT, value: content };
    transaction.put(&rows::ACCOUNT_DATA, (localpart, scope.as_str(), event_type), &row);
    let change = Change::AccountData {
        localpart: localpart.to_owned(),
        room_id: scope.as_str().to_owned(),
        event_type: event_type.to_owned(),
    };
    change.log_in(transaction);
}

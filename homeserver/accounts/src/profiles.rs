use std::collections::BTreeMap;

use entente_storage::{Bytes, Transaction};
use ruma::UserId;
use serde_json::Value;

use crate::{AccountError, Accounts, Change, rows};

/// A profile as JSON has at most this many bytes (C-S API, "Profiles").
const MOST_PROFILE_BYTES: usize = 64 * 1024;
/// A field's name has at most this many bytes.
const MOST_FIELD_NAME_BYTES: usize = 255;

/// A profile: JSON values by field name.
pub type Profile = BTreeMap<String, Value>;

impl Accounts {
    /// All fields of a local user's profile.
    pub async fn profile(&self, user_id: &UserId) -> Result<Profile, AccountError> {
        let localpart = self.local(user_id)?;
        let snapshot = self.snapshot().await?;
        self.user_row(&snapshot, localpart).await?;
        let rows = snapshot.scan_all(rows::PROFILES.scan((localpart,))).await?;
        rows.into_iter().map(|((_, field), value)| Ok((field, parse(&value)?))).collect()
    }

    /// One field of a local user's profile.
    pub async fn profile_field(&self, user_id: &UserId, field: &str) -> Result<Value, AccountError> {
        let localpart = self.local(user_id)?;
        let snapshot = self.snapshot().await?;
        self.user_row(&snapshot, localpart).await?;
        let value = snapshot.get(&rows::PROFILES, (localpart, field)).await?;
        parse(&value.ok_or(AccountError::NotFound("the profile has no such field"))?)
    }

    /// Sets a field of a user's profile; `None` removes it, and one that is not there counts as removed.
    pub async fn set_profile_field(
        &self,
        user_id: &UserId,
        field: &str,
        value: Option<&Value>,
    ) -> Result<(), AccountError> {
        let localpart = self.local(user_id)?;
        self.check_field(field, value)?;
        let encoded = &value.map(|value| Bytes::from(value.to_string()));
        self.store()
            .run(async |snapshot| {
                let rows = snapshot.scan_all(rows::PROFILES.scan((localpart,))).await?;
                let mut transaction = Transaction::new();
                let old = rows.iter().find(|((_, name), _)| name == field).map(|(_, value)| value);
                if old == encoded.as_ref() {
                    return Ok((transaction, ()));
                }
                // The size is that of all fields, so all of them must still be what was counted.
                for (key, value) in &rows {
                    transaction.check_unchanged(&rows::PROFILES, key, Some(value));
                }
                let key = (localpart, field);
                match encoded {
                    None => transaction.delete(&rows::PROFILES, key),
                    Some(encoded) => {
                        let others = rows.iter().filter(|((_, name), _)| name != field);
                        let others = others.map(|((_, name), value)| json_bytes(name, value)).sum::<usize>();
                        if others + json_bytes(field, encoded) + "{}".len() > MOST_PROFILE_BYTES {
                            return Err(AccountError::ProfileTooLarge);
                        }
                        if old.is_none() {
                            transaction.check_absent(&rows::PROFILES, key);
                        }
                        transaction.put(&rows::PROFILES, key, encoded);
                    }
                }
                let change = Change::Profile { localpart: localpart.to_owned(), field: field.to_owned() };
                change.log_in(&mut transaction);
                Ok((transaction, ()))
            })
            .await?;
        Ok(())
    }

    fn check_field(&self, field: &str, value: Option<&Value>) -> Result<(), AccountError> {
        let settings = self.settings();
        if field.len() > MOST_FIELD_NAME_BYTES {
            return Err(AccountError::KeyTooLarge);
        }
        if field.is_empty() {
            return Err(AccountError::InvalidParameter("a profile field needs a name"));
        }
        match (field, value) {
            ("displayname", _) if !settings.change_display_name => {
                Err(AccountError::Forbidden("display names are set by the administrator of this server"))
            }
            ("avatar_url", _) if !settings.change_avatar => {
                Err(AccountError::Forbidden("avatars are set by the administrator of this server"))
            }
            ("displayname" | "avatar_url", Some(value)) if !value.is_string() => {
                Err(AccountError::InvalidParameter("the display name and the avatar are strings"))
            }
            _ => Ok(()),
        }
    }
}

/// What a field adds to the profile as JSON.
fn json_bytes(field: &str, value: &[u8]) -> usize {
    Value::from(field).to_string().len() + ":,".len() + value.len()
}

fn parse(value: &[u8]) -> Result<Value, AccountError> {
    serde_json::from_slice(value).map_err(|error| AccountError::Internal(format!("a profile field: {error}")))
}

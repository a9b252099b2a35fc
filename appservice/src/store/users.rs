//! The service's own users.

use rusqlite::{OptionalExtension as _, params};

use super::{Store, StoreError};

/// What is known of one of the service's users.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UserRow {
    /// The device that encrypts for them.
    pub(crate) device_id: Option<String>,
    /// The name that was set.
    pub(crate) display_name: Option<String>,
    /// The avatar that was set.
    pub(crate) avatar_url: Option<String>,
}

impl Store {
    /// A user who was registered.
    pub(crate) async fn user(&self, user_id: &str) -> Result<Option<UserRow>, StoreError> {
        let user_id = user_id.to_owned();
        self.run(move |connection| {
            let query = "SELECT device_id, display_name, avatar_url FROM users WHERE user_id = ?1";
            let mut statement = connection.prepare_cached(query)?;
            let row = statement.query_row([user_id], |row| {
                Ok(UserRow { device_id: row.get(0)?, display_name: row.get(1)?, avatar_url: row.get(2)? })
            });
            Ok(row.optional()?)
        })
        .await
    }

    /// Remembers a user; what is `None` stays as it was.
    pub(crate) async fn put_user(&self, user_id: &str, user: UserRow) -> Result<(), StoreError> {
        let user_id = user_id.to_owned();
        self.run(move |connection| {
            let put = "INSERT INTO users (user_id, device_id, display_name, avatar_url) VALUES (?1, ?2, ?3, ?4)
                       ON CONFLICT (user_id) DO UPDATE SET device_id = COALESCE(excluded.device_id, device_id),
                       display_name = COALESCE(excluded.display_name, display_name),
                       avatar_url = COALESCE(excluded.avatar_url, avatar_url)";
            let UserRow { device_id, display_name, avatar_url } = user;
            connection.prepare_cached(put)?.execute(params![user_id, device_id, display_name, avatar_url])?;
            Ok(())
        })
        .await
    }

    /// Forgets a user's device.
    pub(crate) async fn forget_device(&self, user_id: &str) -> Result<(), StoreError> {
        let user_id = user_id.to_owned();
        self.run(move |connection| {
            let forget = "UPDATE users SET device_id = NULL WHERE user_id = ?1";
            connection.prepare_cached(forget)?.execute([user_id])?;
            Ok(())
        })
        .await
    }

    /// The users who have devices that encrypt.
    pub(crate) async fn encrypting_users(&self) -> Result<Vec<String>, StoreError> {
        self.run(|connection| {
            let mut statement =
                connection.prepare_cached("SELECT user_id FROM users WHERE device_id IS NOT NULL")?;
            let rows = statement.query_map([], |row| row.get(0))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }
}

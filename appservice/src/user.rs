//! The service's users: the bot, and ghosts that stand for people of another network.

use std::sync::Arc;

use axum::body::Bytes;
use matrix_sdk::ruma::{
    MxcUri, OwnedMxcUri, OwnedRoomId, OwnedUserId, RoomId, UserId, api::client::room::create_room,
};
use serde_json::{Value, json};

use crate::{Bridge, Error, InRoom, homeserver::Identity, store::UserRow};

/// One of the service's users. A value that is cheap to make and to clone: nothing is asked of the homeserver before it acts, and
/// then it is registered, named and joined as far as that is still to be done.
#[derive(Clone)]
pub struct User {
    bridge: Bridge,
    id: OwnedUserId,
    profile: Option<Arc<Profile>>,
}

/// What others see of a user.
#[derive(Clone, Debug, Default)]
struct Profile {
    display_name: Option<String>,
    avatar_url: Option<OwnedMxcUri>,
}

impl std::fmt::Debug for User {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("User").field(&self.id).finish()
    }
}

impl User {
    pub(crate) fn new(bridge: Bridge, user_id: OwnedUserId) -> Self {
        Self { bridge, id: user_id, profile: None }
    }

    /// The user's id.
    pub fn id(&self) -> &UserId {
        &self.id
    }

    /// The service.
    pub fn bridge(&self) -> &Bridge {
        &self.bridge
    }

    /// The same user, who shall have this name. It is set with the next thing that the user does, if it is another than before.
    #[must_use]
    pub fn named(mut self, display_name: &str) -> Self {
        let mut profile = self.profile.as_deref().cloned().unwrap_or_default();
        profile.display_name = Some(display_name.to_owned());
        self.profile = Some(Arc::new(profile));
        self
    }

    /// The same user, who shall have this avatar.
    #[must_use]
    pub fn with_avatar(mut self, avatar_url: &MxcUri) -> Self {
        let mut profile = self.profile.as_deref().cloned().unwrap_or_default();
        profile.avatar_url = Some(avatar_url.to_owned());
        self.profile = Some(Arc::new(profile));
        self
    }

    /// The user in a room.
    pub fn in_room(&self, room_id: &RoomId) -> InRoom {
        InRoom::new(self.clone(), room_id.to_owned())
    }

    pub(crate) fn identity(&self) -> Identity<'_> {
        Identity::user(&self.id)
    }

    /// Registers the user and sets the profile, as far as that was not done before.
    pub async fn ensure_registered(&self) -> Result<(), Error> {
        let store = self.bridge.store();
        let row = match store.user(self.id.as_str()).await? {
            Some(row) => row,
            None => self.register().await?,
        };
        let Some(profile) = &self.profile else { return Ok(()) };
        let mut set = UserRow::default();
        if let Some(name) = &profile.display_name
            && row.display_name.as_ref() != Some(name)
        {
            self.set_profile_field("displayname", json!(name)).await?;
            set.display_name = Some(name.clone());
        }
        if let Some(avatar_url) = &profile.avatar_url
            && row.avatar_url.as_deref() != Some(avatar_url.as_str())
        {
            self.set_profile_field("avatar_url", json!(avatar_url)).await?;
            set.avatar_url = Some(avatar_url.to_string());
        }
        if set != UserRow::default() {
            store.put_user(self.id.as_str(), set).await?;
        }
        Ok(())
    }

    async fn register(&self) -> Result<UserRow, Error> {
        let body = json!({
            "type": "m.login.application_service",
            "username": self.id.localpart(),
            "inhibit_login": true,
        });
        let registered: Result<Value, Error> =
            self.bridge.homeserver().post(Identity::default(), &["v3", "register"], &body).await;
        match registered {
            Ok(_) => {}
            Err(error) if error.is("M_USER_IN_USE") => {}
            Err(error) => return Err(error),
        }
        self.bridge.store().put_user(self.id.as_str(), UserRow::default()).await?;
        Ok(UserRow::default())
    }

    async fn set_profile_field(&self, field: &str, value: Value) -> Result<(), Error> {
        let mut body = serde_json::Map::new();
        body.insert(field.to_owned(), value);
        let path = ["v3", "profile", self.id.as_str(), field];
        self.bridge.homeserver().put::<Value>(self.identity(), &path, &body).await?;
        Ok(())
    }

    /// Makes a room. A homeserver makes another one if it is asked again: remember that it was made
    /// ([`Batch::link`](crate::Batch::link)) before the event that was the reason is done.
    pub async fn create_room(&self, request: create_room::v3::Request) -> Result<OwnedRoomId, Error> {
        self.ensure_registered().await?;
        let room_id = self.bridge.homeserver().typed(self.identity(), request).await?.room_id;
        self.bridge.rooms().set_joined(&self.id, &room_id, true);
        Ok(room_id)
    }

    /// Uploads a file that is not secret, an avatar for instance.
    pub async fn upload(&self, content_type: &str, bytes: impl Into<Bytes>) -> Result<OwnedMxcUri, Error> {
        self.ensure_registered().await?;
        let uri = self.bridge.homeserver().upload(self.identity(), content_type, bytes.into()).await?;
        let uri = OwnedMxcUri::from(uri);
        uri.validate().map_err(|error| Error::Answer(error.to_string()))?;
        Ok(uri)
    }
}

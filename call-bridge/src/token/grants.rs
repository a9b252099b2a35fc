use serde::{Deserialize, Serialize};

use crate::proto::{ParticipantPermission, TrackSource};

/// What the holder of a token may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(clippy::struct_excessive_bools, reason = "the token's own shape")]
pub struct VideoGrant {
    /// The room that the other grants are for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub room: String,
    /// May join the room.
    #[serde(skip_serializing_if = "is_false")]
    pub room_join: bool,
    /// May make rooms, by joining or by `RoomService`.
    #[serde(skip_serializing_if = "is_false")]
    pub room_create: bool,
    /// May list rooms.
    #[serde(skip_serializing_if = "is_false")]
    pub room_list: bool,
    /// May do everything in the room by `RoomService`.
    #[serde(skip_serializing_if = "is_false")]
    pub room_admin: bool,
    /// May send media; yes if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_publish: Option<bool>,
    /// May receive media; yes if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_subscribe: Option<bool>,
    /// May send data; as `can_publish` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_publish_data: Option<bool>,
    /// What may be sent, of `camera`, `microphone`, `screen_share`, `screen_share_audio`; everything if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub can_publish_sources: Vec<String>,
    /// May change its own name, metadata and attributes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_update_own_metadata: Option<bool>,
    /// The others are not told of the participant.
    #[serde(skip_serializing_if = "is_false")]
    pub hidden: bool,
    /// The participant records.
    #[serde(skip_serializing_if = "is_false")]
    pub recorder: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_false(value: &bool) -> bool {
    !value
}

impl VideoGrant {
    /// The grant as participants are told of it.
    pub fn permission(&self) -> ParticipantPermission {
        let can_publish = self.can_publish.unwrap_or(true);
        ParticipantPermission {
            can_subscribe: self.can_subscribe.unwrap_or(true),
            can_publish,
            can_publish_data: self.can_publish_data.unwrap_or(can_publish),
            hidden: self.hidden,
            recorder: self.recorder,
            can_publish_sources: self.sources().map(Into::into).collect(),
            can_update_metadata: self.can_update_own_metadata.unwrap_or(false),
        }
    }

    fn sources(&self) -> impl Iterator<Item = TrackSource> + '_ {
        self.can_publish_sources.iter().filter_map(|name| TrackSource::from_str_name(&name.to_uppercase()))
    }

    /// The grant with what `permission` says, for a token that renews one.
    #[must_use]
    pub fn with_permission(mut self, permission: &ParticipantPermission) -> Self {
        self.can_publish = Some(permission.can_publish);
        self.can_subscribe = Some(permission.can_subscribe);
        self.can_publish_data = Some(permission.can_publish_data);
        self.can_publish_sources =
            permission.can_publish_sources().map(|source| source.as_str_name().to_lowercase()).collect();
        self.can_update_own_metadata = Some(permission.can_update_metadata);
        self.hidden = permission.hidden;
        self.recorder = permission.recorder;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_is_allowed_but_data_follows_media() {
        let permission = VideoGrant::default().permission();
        assert!(permission.can_publish && permission.can_subscribe && permission.can_publish_data);
        assert!(!permission.can_update_metadata);
        let permission = VideoGrant { can_publish: Some(false), ..VideoGrant::default() }.permission();
        assert!(!permission.can_publish && !permission.can_publish_data);
    }

    #[test]
    fn a_permission_goes_into_a_grant_and_comes_back() {
        let grant =
            VideoGrant { can_publish_sources: vec!["screen_share".to_owned()], ..VideoGrant::default() };
        let permission = grant.permission();
        assert_eq!(permission.can_publish_sources, [i32::from(TrackSource::ScreenShare)]);
        assert_eq!(VideoGrant::default().with_permission(&permission).permission(), permission);
    }
}

use axum::extract::State;
use entente_accounts::Session;
use entente_rooms::{LONGEST_DELAY, MOST_DELAYED};
use ruma::{
    api::client::discovery::get_capabilities::v3::{
        AccountModerationCapability, Capabilities, ChangePasswordCapability, GetLoginTokenCapability,
        ProfileFieldsCapability, Request, Response, RoomVersionStability, RoomVersionsCapability,
        ThirdPartyIdChangesCapability,
    },
    profile::ProfileFieldName,
};
use serde_json::json;

use crate::{ApiState, MatrixError};

/// `GET /capabilities`.
pub(super) async fn capabilities(
    State(state): State<ApiState>,
    session: Session,
    _: Request,
) -> Result<Response, MatrixError> {
    let settings = state.accounts.settings();
    let mut capabilities = Capabilities::new();
    capabilities.change_password =
        ChangePasswordCapability::new(settings.password_login && settings.change_password);
    capabilities.get_login_token = GetLoginTokenCapability::new(settings.password_login);
    capabilities.thirdparty_id_changes = ThirdPartyIdChangesCapability::new(false);
    let versions = entente_rooms::ROOM_VERSIONS.map(|version| (version, RoomVersionStability::Stable));
    let default = state.rooms.settings().default_room_version.clone();
    capabilities.room_versions = RoomVersionsCapability::new(default, versions.into());
    let mut fields = ProfileFieldsCapability::new(true);
    let fixed: Vec<ProfileFieldName> = [
        (settings.change_display_name, ProfileFieldName::DisplayName),
        (settings.change_avatar, ProfileFieldName::AvatarUrl),
    ]
    .into_iter()
    .filter_map(|(may_change, field)| (!may_change).then_some(field))
    .collect();
    if !fixed.is_empty() {
        fields.disallowed = Some(fixed);
    }
    capabilities.profile_fields = Some(fields);
    if session.admin {
        capabilities.account_moderation = AccountModerationCapability::new(true, true);
    }
    let delayed = json!({ "max_delay_ms": LONGEST_DELAY.as_millis(), "max_scheduled": MOST_DELAYED });
    capabilities.set("org.matrix.msc4140.delayed_events", delayed).map_err(MatrixError::internal)?;
    Ok(Response::new(capabilities))
}

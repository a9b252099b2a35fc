use axum::extract::State;
use entente_accounts::Session;
use ruma::{
    RoomAliasId,
    api::client::{
        alias::{create_alias, delete_alias, get_alias},
        room::aliases,
    },
};

use super::{membership::active, remote};
use crate::{ApiState, MatrixError, endpoint::Anonymous};

/// `GET /directory/room/{roomAlias}`.
pub(super) async fn resolve(
    State(state): State<ApiState>,
    _: Anonymous,
    request: get_alias::v3::Request,
) -> Result<get_alias::v3::Response, MatrixError> {
    let (room_id, mut servers) = remote::resolve(&state, (&*request.room_alias).into(), &[]).await?;
    if request.room_alias.server_name() == state.rooms.server_name() {
        servers.push(state.rooms.server_name().to_owned());
    }
    Ok(get_alias::v3::Response::new(room_id, servers))
}

/// `PUT /directory/room/{roomAlias}`.
pub(super) async fn create(
    State(state): State<ApiState>,
    session: Session,
    request: create_alias::v3::Request,
) -> Result<create_alias::v3::Response, MatrixError> {
    active(&session)?;
    check_not_exclusive(&state, &session, &request.room_alias)?;
    let view = state.rooms.view(&request.room_id).await?;
    view.require_joined(&session.user_id).await?;
    state.rooms.create_alias(&request.room_alias, &request.room_id, &session.user_id).await?;
    Ok(create_alias::v3::Response::new())
}

/// Refuses aliases that an application service has for itself.
pub(super) fn check_not_exclusive(
    state: &ApiState,
    session: &Session,
    alias: &RoomAliasId,
) -> Result<(), MatrixError> {
    if state.appservices.registry().is_reserved_alias(alias, session.service.as_deref()) {
        return Err(MatrixError::exclusive("that alias is kept for an application service"));
    }
    Ok(())
}

/// `DELETE /directory/room/{roomAlias}`.
pub(super) async fn delete(
    State(state): State<ApiState>,
    session: Session,
    request: delete_alias::v3::Request,
) -> Result<delete_alias::v3::Response, MatrixError> {
    active(&session)?;
    state.rooms.delete_alias(&request.room_alias, &session.user_id, session.admin).await?;
    Ok(delete_alias::v3::Response::new())
}

/// `GET /rooms/{roomId}/aliases`.
pub(super) async fn of_room(
    State(state): State<ApiState>,
    session: Session,
    request: aliases::v3::Request,
) -> Result<aliases::v3::Response, MatrixError> {
    let view = state.rooms.view(&request.room_id).await?;
    view.require_reader(&session.user_id).await?;
    Ok(aliases::v3::Response::new(view.aliases().await?))
}

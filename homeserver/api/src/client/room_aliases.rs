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
use crate::{ApiState, MatrixError, endpoint::Visitor};

/// `GET /directory/room/{roomAlias}`.
pub(super) async fn resolve(
    State(state): State<ApiState>,
    visitor: Visitor,
    request: get_alias::v3::Request,
) -> Result<get_alias::v3::Response, MatrixError> {
    let named = (&*request.room_alias).into();
    let (room_id, mut servers) = remote::resolve_for(&state, &visitor, named, &[]).await?;
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
    check_may_have(&state, &session, &request.room_alias)?;
    let view = state.rooms.view(&request.room_id).await?;
    if !has_in_namespace(&state, &session, &request.room_alias) {
        view.require_joined(&session.user_id).await?;
    }
    state.rooms.create_alias(&request.room_alias, &request.room_id, &session.user_id).await?;
    Ok(create_alias::v3::Response::new())
}

/// Refuses aliases that an application service has for itself, and to services those outside their namespaces.
pub(super) fn check_may_have(
    state: &ApiState,
    session: &Session,
    alias: &RoomAliasId,
) -> Result<(), MatrixError> {
    if session.service.is_some() && !has_in_namespace(state, session, alias) {
        return Err(MatrixError::exclusive("that alias is not in a namespace of this application service"));
    }
    check_not_reserved(state, session, alias)
}

fn check_not_reserved(state: &ApiState, session: &Session, alias: &RoomAliasId) -> Result<(), MatrixError> {
    if state.appservices.registry().is_reserved_alias(alias, session.service.as_deref()) {
        return Err(MatrixError::exclusive("that alias is kept for an application service"));
    }
    Ok(())
}

/// Whether an alias is in a namespace of the service that acts: those are its own to give and to take (A-S API, "Server admin style
/// permissions").
fn has_in_namespace(state: &ApiState, session: &Session, alias: &RoomAliasId) -> bool {
    let registry = state.appservices.registry();
    let service = session.service.as_deref().and_then(|id| registry.by_id(id));
    service.is_some_and(|service| service.is_alias(alias))
}

/// `DELETE /directory/room/{roomAlias}`.
pub(super) async fn delete(
    State(state): State<ApiState>,
    session: Session,
    request: delete_alias::v3::Request,
) -> Result<delete_alias::v3::Response, MatrixError> {
    active(&session)?;
    check_not_reserved(&state, &session, &request.room_alias)?;
    let may_always = session.admin || has_in_namespace(&state, &session, &request.room_alias);
    state.rooms.delete_alias(&request.room_alias, &session.user_id, may_always).await?;
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

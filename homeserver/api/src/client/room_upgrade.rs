use axum::extract::State;
use entente_accounts::Session;
use entente_rooms::RoomUpgrade;
use ruma::api::client::room::upgrade_room::v3::{Request, Response};

use super::membership::{active, profile_of};
use crate::{ApiState, MatrixError};

/// Additional creators that one request may name.
const MOST_CREATORS: usize = 100;

/// `POST /rooms/{roomId}/upgrade`.
pub(super) async fn upgrade(
    State(state): State<ApiState>,
    session: Session,
    request: Request,
) -> Result<Response, MatrixError> {
    active(&session)?;
    if request.additional_creators.len() > MOST_CREATORS {
        return Err(MatrixError::invalid_param("a room has at most 100 additional creators"));
    }
    let upgrade = RoomUpgrade {
        profile: profile_of(&state, &session.user_id).await?,
        user_id: session.user_id,
        version: request.new_version,
        additional_creators: request.additional_creators,
    };
    Ok(Response::new(state.rooms.upgrade_room(&request.room_id, &upgrade).await?))
}

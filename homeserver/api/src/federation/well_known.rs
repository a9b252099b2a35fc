use axum::extract::State;
use ruma::api::federation::discovery::discover_homeserver::{Request, Response};

use crate::{ApiState, MatrixError, endpoint::Anonymous};

/// `GET /.well-known/matrix/server`.
pub(super) async fn server(
    State(state): State<ApiState>,
    _: Anonymous,
    _: Request,
) -> Result<Response, MatrixError> {
    let address = state.identity.federation_address.as_str().try_into().map_err(MatrixError::internal)?;
    Ok(Response::new(address))
}

use axum::extract::State;
use entente_accounts::Session;
use ruma::api::client::thirdparty::{get_protocol, get_protocols};

use crate::{ApiState, MatrixError};

/// `GET /thirdparty/protocols`: those of application services, of which there are none.
pub(super) async fn protocols(
    State(_): State<ApiState>,
    _: Session,
    _: get_protocols::v3::Request,
) -> Result<get_protocols::v3::Response, MatrixError> {
    Ok(get_protocols::v3::Response::new(std::collections::BTreeMap::new()))
}

/// `GET /thirdparty/protocol/{protocol}`.
pub(super) async fn protocol(
    State(_): State<ApiState>,
    _: Session,
    _: get_protocol::v3::Request,
) -> Result<get_protocol::v3::Response, MatrixError> {
    Err(MatrixError::not_found("no application service here bridges to that network"))
}

use axum::extract::State;
use ruma::api::client::{
    appservice::{request_ping, set_room_visibility},
    room::Visibility,
};

use crate::{ApiState, MatrixError, masquerading::ServiceCaller};

/// `POST /appservice/{appserviceId}/ping`.
pub(super) async fn ping(
    State(state): State<ApiState>,
    ServiceCaller(service): ServiceCaller,
    request: request_ping::v1::Request,
) -> Result<request_ping::v1::Response, MatrixError> {
    if request.appservice_id != service.id {
        return Err(MatrixError::forbidden("that is not the application service of this token"));
    }
    let transaction_id = request.transaction_id.as_ref().map(|id| id.as_str());
    if transaction_id.is_some_and(|id| id.len() > 255) {
        return Err(MatrixError::invalid_param("a transaction id has at most 255 bytes"));
    }
    match state.appservices.ping(&service, transaction_id).await {
        Ok(duration) => Ok(request_ping::v1::Response::new(duration)),
        Err(error) => Err(MatrixError::of_ping(error)),
    }
}

/// `PUT /directory/list/appservice/{networkId}/{roomId}`: the list of rooms of a network that the service bridges to.
pub(super) async fn publish(
    State(state): State<ApiState>,
    ServiceCaller(service): ServiceCaller,
    request: set_room_visibility::v3::Request,
) -> Result<set_room_visibility::v3::Response, MatrixError> {
    if request.network_id.len() > 255 {
        return Err(MatrixError::invalid_param("the id of a network has at most 255 bytes"));
    }
    let published = match request.visibility {
        Visibility::Public => true,
        Visibility::Private => false,
        _ => return Err(MatrixError::invalid_param("visibility is \"public\" or \"private\"")),
    };
    let instance = service.instance_id(&request.network_id);
    state.rooms.publish_in(&instance, &request.room_id, published).await?;
    Ok(set_room_visibility::v3::Response::new())
}

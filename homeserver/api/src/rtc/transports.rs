use axum::{Json, extract::State};
use serde_json::{Value, json};

use super::Calls;
use crate::{ApiState, endpoint::SessionOf};

/// `GET /_matrix/client/unstable/org.matrix.msc4143/rtc/transports`.
pub(super) async fn unstable(State(state): State<ApiState>, _: SessionOf) -> Json<Value> {
    let transports = state.calls.as_ref().map(
        |calls| json!({ "type": "livekit", "livekit_service_url": calls.service_url, "url": calls.sfu_url }),
    );
    Json(json!({ "rtc_transports": Vec::from_iter(transports) }))
}

/// `GET /_matrix/client/v1/rtc/transports`.
pub(super) async fn stable(State(state): State<ApiState>, _: SessionOf) -> Json<Value> {
    let transports = state.calls.as_ref().map(|calls| json!({ "type": "m.livekit", "url": calls.sfu_url }));
    Json(json!({ "transports": Vec::from_iter(transports) }))
}

/// The same as older clients find it in `/.well-known/matrix/client`.
pub(crate) fn foci(calls: &Calls) -> Value {
    json!([{ "type": "livekit", "livekit_service_url": calls.service_url }])
}

use axum::{
    Json,
    extract::{Path, State},
};
use entente_federation::Transaction;
use ruma::{CanonicalJsonObject, CanonicalJsonValue};
use serde_json::{Map, Value, json};

use super::{messages, peer::Peer};
use crate::{ApiState, MatrixError};

/// Events of one transaction (S-S API, "Transactions").
const MOST_EVENTS: usize = 50;
/// Other messages of one transaction.
const MOST_MESSAGES: usize = 100;
/// A transaction id has at most this many bytes.
const MOST_ID_BYTES: usize = 255;

/// `PUT /v1/send/{txnId}`.
pub(super) async fn send(
    State(state): State<ApiState>,
    Path(transaction_id): Path<String>,
    peer: Peer,
) -> Result<Json<Value>, MatrixError> {
    let (origin, mut body) = peer.object()?;
    let pdus = objects(body.remove("pdus"))?;
    let edus = objects(body.remove("edus"))?;
    if pdus.len() > MOST_EVENTS || edus.len() > MOST_MESSAGES || transaction_id.len() > MOST_ID_BYTES {
        return Err(MatrixError::invalid_param("a transaction has at most 50 events and 100 messages"));
    }
    messages::take(&state, &origin, edus).await?;
    let answer = state.federation.rooms.receive(Transaction { origin, transaction_id, pdus }).await?;
    let outcome = |(event_id, outcome): (&ruma::OwnedEventId, &Result<(), String>)| {
        let said = match outcome {
            Ok(()) => json!({}),
            Err(error) => json!({ "error": error }),
        };
        (event_id.to_string(), said)
    };
    let pdus: Map<String, Value> = answer.iter().map(outcome).collect();
    Ok(Json(json!({ "pdus": pdus })))
}

fn objects(list: Option<CanonicalJsonValue>) -> Result<Vec<CanonicalJsonObject>, MatrixError> {
    let Some(list) = list else { return Ok(Vec::new()) };
    let CanonicalJsonValue::Array(list) = list else {
        return Err(MatrixError::bad_json("pdus and edus are lists"));
    };
    let object = |value| match value {
        CanonicalJsonValue::Object(object) => Ok(object),
        _ => Err(MatrixError::bad_json("pdus and edus are lists of objects")),
    };
    list.into_iter().map(object).collect()
}

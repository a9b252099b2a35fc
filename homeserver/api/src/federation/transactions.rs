use axum::{
    Json,
    extract::{Path, State},
};
use entente_federation::Transaction;
use ruma::{CanonicalJsonObject, CanonicalJsonValue, ServerName};
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
    mut peer: Peer,
) -> Result<Json<Value>, MatrixError> {
    let mut body = peer.object()?;
    let (pdus, edus) = (listed(&mut body, "pdus")?, listed(&mut body, "edus")?);
    if pdus.len() > MOST_EVENTS || edus.len() > MOST_MESSAGES || transaction_id.len() > MOST_ID_BYTES {
        return Err(MatrixError::invalid_param("a transaction has at most 50 events and 100 messages"));
    }
    let origin = peer.origin.clone();
    let (pdus, edus) = (objects(&origin, pdus), objects(&origin, edus));
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

fn listed(body: &mut CanonicalJsonObject, field: &str) -> Result<Vec<CanonicalJsonValue>, MatrixError> {
    match body.remove(field) {
        None => Ok(Vec::new()),
        Some(CanonicalJsonValue::Array(list)) => Ok(list),
        Some(_) => Err(MatrixError::bad_json("pdus and edus are lists")),
    }
}

/// The objects of a list. What is none is left out with a line in the log: the rest may be good.
fn objects(origin: &ServerName, list: Vec<CanonicalJsonValue>) -> Vec<CanonicalJsonObject> {
    let all = list.len();
    let object = |value| match value {
        CanonicalJsonValue::Object(object) => Some(object),
        _ => None,
    };
    let objects: Vec<CanonicalJsonObject> = list.into_iter().filter_map(object).collect();
    if objects.len() < all {
        tracing::info!(%origin, "what is neither an event nor a message is left out of a transaction");
    }
    objects
}

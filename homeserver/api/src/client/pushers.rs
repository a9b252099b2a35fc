//! Pushers, and what notified a user (C-S API, "Push Notifications").

use axum::{
    Json, Router,
    extract::{Query, State},
    routing::{get, post},
};
use entente_delivery::{DeliveryError, Pusher};
use entente_sync::NotificationToken;
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use super::membership::active;
use crate::{
    ApiState, MatrixError,
    endpoint::{JsonBody, SessionOf},
};

/// Notifications on a page unless the request says otherwise, and at the most.
const DEFAULT_PAGE: usize = 20;
const MOST_ON_A_PAGE: usize = 100;

#[derive(Deserialize)]
struct Setting {
    pushkey: String,
    app_id: String,
    kind: Option<String>,
    #[serde(default)]
    app_display_name: String,
    #[serde(default)]
    device_display_name: String,
    profile_tag: Option<String>,
    #[serde(default)]
    lang: String,
    #[serde(default)]
    data: Map<String, Value>,
    #[serde(default)]
    append: bool,
    #[serde(rename = "org.matrix.msc3881.enabled")]
    enabled: Option<bool>,
}

#[derive(Deserialize)]
struct Page {
    from: Option<String>,
    limit: Option<usize>,
    only: Option<String>,
}

pub(super) fn routes() -> Router<ApiState> {
    let mut router = Router::new();
    for version in ["v3", "r0"] {
        let path = |rest: &str| format!("/_matrix/client/{version}/{rest}");
        router = router
            .route(&path("pushers"), get(list))
            .route(&path("pushers/set"), post(set))
            .route(&path("notifications"), get(notifications));
    }
    router
}

/// `GET /pushers`.
async fn list(
    State(state): State<ApiState>,
    SessionOf(session): SessionOf,
) -> Result<Json<Value>, MatrixError> {
    let pushers = state.delivery.pushers(session.user_id.localpart()).await?;
    let pushers: Vec<Value> = pushers.into_iter().map(shown).collect();
    Ok(Json(json!({ "pushers": pushers })))
}

fn shown(pusher: Pusher) -> Value {
    let mut shown = json!({
        "app_id": pusher.app_id,
        "pushkey": pusher.pushkey,
        "kind": "http",
        "app_display_name": pusher.app_display_name,
        "device_display_name": pusher.device_display_name,
        "lang": pusher.lang,
        "data": pusher.data,
        "org.matrix.msc3881.enabled": pusher.enabled,
        "org.matrix.msc3881.device_id": pusher.device_id,
    });
    if let Some(profile_tag) = pusher.profile_tag {
        shown["profile_tag"] = json!(profile_tag);
    }
    shown
}

/// `POST /pushers/set`.
async fn set(
    State(state): State<ApiState>,
    SessionOf(session): SessionOf,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, MatrixError> {
    active(&session)?;
    state.limits.take_for(&session)?;
    let body: Value = serde_json::from_slice(&body).map_err(MatrixError::not_json)?;
    for needed in ["kind", "app_id", "pushkey"] {
        if body.get(needed).is_none() {
            return Err(MatrixError::missing_param(&format!("a pusher has {needed}")));
        }
    }
    let setting: Setting = serde_json::from_value(body).map_err(MatrixError::bad_json)?;
    let localpart = session.user_id.localpart();
    match setting.kind.as_deref() {
        None => state.delivery.delete_pusher(localpart, &setting.app_id, &setting.pushkey).await?,
        Some("http") => {
            let pusher = Pusher {
                app_id: setting.app_id,
                pushkey: setting.pushkey,
                app_display_name: setting.app_display_name,
                device_display_name: setting.device_display_name,
                profile_tag: setting.profile_tag,
                lang: setting.lang,
                data: setting.data,
                enabled: setting.enabled.unwrap_or(true),
                device_id: session.device_id.to_string(),
            };
            state.delivery.set_pusher(localpart, &pusher, setting.append).await?;
        }
        Some("email") => return Err(MatrixError::invalid_param("this server sends no e-mail")),
        Some(_) => {
            return Err(MatrixError::invalid_param("the kind of a pusher is \"http\", or null to delete it"));
        }
    }
    Ok(Json(json!({})))
}

/// `GET /notifications`.
async fn notifications(
    State(state): State<ApiState>,
    SessionOf(session): SessionOf,
    Query(page): Query<Page>,
) -> Result<Json<Value>, MatrixError> {
    state.limits.take_for(&session)?;
    let from = match page.from.as_deref() {
        None | Some("") => None,
        Some(from) => Some(
            NotificationToken::parse(from)
                .ok_or_else(|| MatrixError::invalid_param("from is none of this server's tokens"))?,
        ),
    };
    let limit = page.limit.unwrap_or(DEFAULT_PAGE).clamp(1, MOST_ON_A_PAGE);
    let only_highlights = match page.only.as_deref() {
        None | Some("") => false,
        Some("highlight") => true,
        Some(_) => return Err(MatrixError::invalid_param("only is \"highlight\"")),
    };
    let (found, next) = state.sync.notifications(&session.user_id, from, limit, only_highlights).await?;
    let mut notifications = Vec::new();
    for notification in found {
        let event = String::from_utf8(notification.event).map_err(MatrixError::internal)?;
        let event = RawValue::from_string(event).map_err(MatrixError::internal)?;
        notifications.push(json!({
            "room_id": notification.room_id,
            "event": event,
            "ts": notification.at,
            "actions": notification.actions,
            "read": notification.read,
            "profile_tag": null,
        }));
    }
    let mut answer = json!({ "notifications": notifications });
    if let Some(next) = next {
        answer["next_token"] = json!(next.to_string());
    }
    Ok(Json(answer))
}

impl From<DeliveryError> for MatrixError {
    fn from(error: DeliveryError) -> Self {
        match error {
            DeliveryError::InvalidParameter(message) => Self::invalid_param(&message),
            DeliveryError::Refused(message) => Self::forbidden(&message),
            DeliveryError::TooMany => Self::forbidden("you have as many pushers as one can have"),
            DeliveryError::Account(error) => error.into(),
            DeliveryError::Room(error) => error.into(),
            DeliveryError::Sync(error) => error.into(),
            DeliveryError::Storage(error) => error.into(),
            error => Self::internal(error),
        }
    }
}

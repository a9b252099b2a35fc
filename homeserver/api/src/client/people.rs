use axum::extract::{RawQuery, State};
use entente_accounts::Session;
use ruma::{OwnedUserId, api::client::user_directory::search_users};
use serde_json::{Value, json};

use crate::{ApiState, MatrixError, endpoint::SessionOf};

/// Users of one answer.
const MOST_USERS: usize = 50;
/// A search term has at most this many bytes.
const MOST_TERM_BYTES: usize = 255;
/// Rooms of one page.
const ROOMS_ON_PAGE: usize = 100;

/// `POST /user_directory/search`.
pub(super) async fn search(
    State(state): State<ApiState>,
    session: Session,
    request: search_users::v3::Request,
) -> Result<search_users::v3::Response, MatrixError> {
    if request.search_term.len() > MOST_TERM_BYTES {
        return Err(MatrixError::invalid_param("a search term has at most 255 bytes"));
    }
    let limit = usize::try_from(u64::from(request.limit)).unwrap_or(MOST_USERS).min(MOST_USERS);
    let found = state.rooms.search_users(&session.user_id, &request.search_term, limit).await?;
    let user = |(user_id, profile): (String, entente_rooms::Profile)| {
        let mut user = search_users::v3::User::new(OwnedUserId::try_from(user_id).ok()?);
        user.display_name = profile.displayname;
        user.avatar_url = profile.avatar_url.map(Into::into);
        Some(user)
    };
    let users = found.users.into_iter().filter_map(user).collect();
    Ok(search_users::v3::Response::new(users, found.limited))
}

/// `GET /mutual_rooms` (MSC2666, in its stable form and in that of clients from before).
pub(super) async fn mutual_rooms(
    State(state): State<ApiState>,
    SessionOf(session): SessionOf,
    RawQuery(query): RawQuery,
) -> Result<axum::Json<Value>, MatrixError> {
    state.limits.take_for(&session)?;
    let of = |name: &str| {
        let mut pairs = url::form_urlencoded::parse(query.as_deref().unwrap_or_default().as_bytes());
        pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    };
    let other = of("user_id").ok_or_else(|| MatrixError::missing_param("the query has no user_id"))?;
    let other =
        OwnedUserId::try_from(other).map_err(|_| MatrixError::invalid_param("user_id is no user id"))?;
    if other == session.user_id {
        return Err(MatrixError::invalid_param("with yourself you share all your rooms"));
    }
    let mut rooms = state.rooms.mutual_rooms(&session.user_id, &other).await?;
    let count = rooms.len();
    if let Some(from) = of("from") {
        rooms.retain(|room_id| room_id.as_str() > from.as_str());
    }
    let has_more = rooms.len() > ROOMS_ON_PAGE;
    rooms.truncate(ROOMS_ON_PAGE);
    let mut body = json!({ "joined": rooms, "count": count });
    if has_more && let Some(last) = rooms.last() {
        body["next_batch"] = json!(last);
    }
    Ok(axum::Json(body))
}

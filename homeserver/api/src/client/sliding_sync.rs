//! Sliding sync (MSC4186) in its two dialects. What they ask for is the same; fields and their names differ.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Query, State, rejection::QueryRejection},
    response::{IntoResponse, Response},
    routing::post,
};
use entente_accounts::Session;
use entente_sync::{
    Dialect, RequiredState, RoomConfig, RoomsOfExtension, SlidingExtensions, SlidingFilters, SlidingList,
    SlidingRequest, StateSelector, StickyEventsExtension, ToDeviceExtension,
};
use ruma::OwnedRoomId;
use serde::Deserialize;

use super::presence::wanted;
use crate::{
    ApiState, MatrixError,
    endpoint::{Json, JsonBody, SessionOf},
};

/// The path of the form that was merged.
pub(super) const MERGED: &str = "/_matrix/client/v4/sync";
/// The path of the form that clients have had since 2024.
pub(super) const SIMPLIFIED: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";

/// Lists of one request.
const MOST_LISTS: usize = 100;
/// Rooms to which one request subscribes: the spec's limit, and what clients did before there was one.
const MOST_SUBSCRIPTIONS: usize = 500;
/// Parts of the state that one rule names.
const MOST_SELECTORS: usize = 300;
/// Events of one room's timeline.
const MOST_EVENTS: u64 = 100;
/// Names have at most this many bytes.
const MOST_NAME_BYTES: usize = 255;
/// A connection's name has at most this many bytes.
const MOST_CONNECTION_BYTES: usize = 64;

/// What the simplified form has in its query string.
#[derive(Debug, Deserialize)]
struct Parameters {
    pos: Option<String>,
    timeout: Option<u64>,
    set_presence: Option<String>,
}

/// A request of either dialect. What one of them alone has is optional.
#[derive(Debug, Deserialize)]
struct Body {
    conn_id: Option<String>,
    pos: Option<String>,
    timeout: Option<u64>,
    set_presence: Option<String>,
    txn_id: Option<String>,
    #[serde(default)]
    lists: BTreeMap<String, List>,
    #[serde(default)]
    room_subscriptions: BTreeMap<OwnedRoomId, Config>,
    #[serde(default)]
    extensions: Extensions,
}

#[derive(Debug, Deserialize)]
struct List {
    /// Simplified.
    ranges: Option<Vec<(u64, u64)>>,
    /// Merged.
    range: Option<(u64, u64)>,
    filters: Option<Filters>,
    #[serde(flatten)]
    config: Config,
}

#[derive(Debug, Deserialize)]
struct Config {
    timeline_limit: u64,
    #[serde(default)]
    required_state: Required,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Required {
    /// Simplified: event types and state keys, of which some stand for others.
    Pairs(Vec<(String, String)>),
    /// Merged.
    Selectors {
        #[serde(default)]
        include: Vec<Selector>,
        #[serde(default)]
        exclude: Vec<Selector>,
        #[serde(default)]
        lazy_members: bool,
    },
}

#[derive(Debug, Deserialize)]
struct Selector {
    #[serde(rename = "type")]
    event_type: Option<String>,
    state_key: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Filters {
    is_dm: Option<bool>,
    spaces: Option<Vec<OwnedRoomId>>,
    is_encrypted: Option<bool>,
    #[serde(alias = "is_invite")]
    is_invited: Option<bool>,
    room_types: Option<Vec<Option<String>>>,
    not_room_types: Option<Vec<Option<String>>>,
    tags: Option<Vec<String>>,
    not_tags: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
struct Extensions {
    to_device: Option<Paged>,
    e2ee: Option<Enabled>,
    account_data: Option<OfRooms>,
    receipts: Option<OfRooms>,
    typing: Option<OfRooms>,
    #[serde(rename = "org.matrix.msc4354.sticky_events")]
    sticky_events: Option<Paged>,
}

#[derive(Debug, Deserialize)]
struct Enabled {
    #[serde(default)]
    enabled: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Paged {
    #[serde(default)]
    enabled: Option<bool>,
    since: Option<String>,
    limit: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct OfRooms {
    #[serde(default)]
    enabled: Option<bool>,
    lists: Option<Vec<String>>,
    rooms: Option<Vec<String>>,
}

impl Default for Required {
    fn default() -> Self {
        Self::Pairs(Vec::new())
    }
}

pub(super) fn routes() -> Router<ApiState> {
    Router::new().route(SIMPLIFIED, post(simplified)).route(MERGED, post(merged))
}

/// `POST /unstable/org.matrix.simplified_msc3575/sync`.
async fn simplified(
    State(state): State<ApiState>,
    SessionOf(session): SessionOf,
    parameters: Result<Query<Parameters>, QueryRejection>,
    JsonBody(body): JsonBody,
) -> Result<Response, MatrixError> {
    let Query(parameters) = parameters.map_err(|error| MatrixError::invalid_param(&error.body_text()))?;
    let mut body: Body = serde_json::from_slice(&body).map_err(MatrixError::bad_json)?;
    body.pos = parameters.pos;
    body.timeout = parameters.timeout;
    body.set_presence = parameters.set_presence;
    answer(&state, session, Dialect::Simplified, body).await
}

/// `POST /v4/sync`.
async fn merged(
    State(state): State<ApiState>,
    SessionOf(session): SessionOf,
    JsonBody(body): JsonBody,
) -> Result<Response, MatrixError> {
    let body: Body = serde_json::from_slice(&body).map_err(MatrixError::bad_json)?;
    answer(&state, session, Dialect::Merged, body).await
}

async fn answer(
    state: &ApiState,
    session: Session,
    dialect: Dialect,
    body: Body,
) -> Result<Response, MatrixError> {
    let presence = wanted(body.set_presence.as_deref())?;
    let request = body.into_request(session, dialect)?;
    // The user is here as long as the request waits.
    let _attendance = state.accounts.attend(&request.user_id, request.device_id.as_str(), presence);
    Ok(Json(state.sync.sliding_sync(&request).await?).into_response())
}

impl Body {
    fn into_request(self, session: Session, dialect: Dialect) -> Result<SlidingRequest, MatrixError> {
        if self.lists.len() > MOST_LISTS {
            return Err(MatrixError::invalid_param("a request has at most 100 lists"));
        }
        if self.room_subscriptions.len() > MOST_SUBSCRIPTIONS {
            return Err(MatrixError::invalid_param("a request subscribes to at most 500 rooms"));
        }
        let connection = self.conn_id.unwrap_or_default();
        if connection.len() > MOST_CONNECTION_BYTES {
            return Err(MatrixError::invalid_param("conn_id has at most 64 bytes"));
        }
        let user_id = session.user_id;
        let mut lists = BTreeMap::new();
        for (name, list) in self.lists {
            bounded(&name)?;
            lists.insert(name, list.into_list(user_id.as_str())?);
        }
        let mut subscriptions = BTreeMap::new();
        for (room_id, config) in self.room_subscriptions {
            subscriptions.insert(room_id, config.into_config(user_id.as_str())?);
        }
        Ok(SlidingRequest {
            user_id,
            device_id: session.device_id,
            dialect,
            connection,
            pos: self.pos.filter(|pos| !pos.is_empty()),
            timeout: Duration::from_millis(self.timeout.unwrap_or_default()),
            txn_id: self.txn_id.filter(|txn_id| txn_id.len() <= MOST_NAME_BYTES),
            lists,
            subscriptions,
            extensions: self.extensions.into_extensions()?,
        })
    }
}

impl List {
    fn into_list(self, user_id: &str) -> Result<SlidingList, MatrixError> {
        let ranges = self.ranges.or_else(|| self.range.map(|range| vec![range]));
        if let Some(ranges) = &ranges
            && (ranges.len() > MOST_LISTS || ranges.iter().any(|(first, last)| first > last))
        {
            return Err(MatrixError::invalid_param(
                "a range has a first place, and a last one not before it",
            ));
        }
        let filters = match self.filters {
            None => SlidingFilters::default(),
            Some(filters) => filters.into_filters()?,
        };
        Ok(SlidingList { ranges, config: self.config.into_config(user_id)?, filters })
    }
}

impl Config {
    fn into_config(self, user_id: &str) -> Result<RoomConfig, MatrixError> {
        let limit = self.timeline_limit.min(MOST_EVENTS);
        Ok(RoomConfig {
            timeline_limit: usize::try_from(limit).unwrap_or_default(),
            required_state: Arc::new(self.required_state.into_required_state(user_id)?),
        })
    }
}

impl Required {
    fn into_required_state(self, user_id: &str) -> Result<RequiredState, MatrixError> {
        let mut required = match self {
            Self::Pairs(pairs) => of_pairs(pairs, user_id),
            Self::Selectors { include, exclude, lazy_members } => {
                let selectors = |selectors: Vec<Selector>| {
                    let selector =
                        |Selector { event_type, state_key }| StateSelector { event_type, state_key };
                    selectors.into_iter().map(selector).collect()
                };
                RequiredState { include: selectors(include), exclude: selectors(exclude), lazy_members }
            }
        };
        for selectors in [&mut required.include, &mut required.exclude] {
            if selectors.len() > MOST_SELECTORS {
                return Err(MatrixError::invalid_param(
                    "required_state names at most 300 parts of the state",
                ));
            }
            for selector in &*selectors {
                selector.event_type.as_deref().map_or(Ok(()), bounded)?;
                selector.state_key.as_deref().map_or(Ok(()), bounded)?;
            }
            selectors.sort_unstable();
            selectors.dedup();
        }
        Ok(required)
    }
}

/// `*` stands for everything, `$ME` for the user, `$LAZY` for the members who appear in the timeline.
fn of_pairs(pairs: Vec<(String, String)>, user_id: &str) -> RequiredState {
    let mut required = RequiredState::default();
    for (event_type, state_key) in pairs {
        if event_type == "m.room.member" && state_key == "$LAZY" {
            required.lazy_members = true;
            continue;
        }
        let state_key = match state_key.as_str() {
            "*" => None,
            "$ME" => Some(user_id.to_owned()),
            _ => Some(state_key),
        };
        required
            .include
            .push(StateSelector { event_type: (event_type != "*").then_some(event_type), state_key });
    }
    required
}

impl Filters {
    fn into_filters(self) -> Result<SlidingFilters, MatrixError> {
        let filters = SlidingFilters {
            is_dm: self.is_dm,
            spaces: self.spaces,
            is_encrypted: self.is_encrypted,
            is_invited: self.is_invited,
            room_types: self.room_types.filter(|types| !types.is_empty()),
            not_room_types: self.not_room_types.unwrap_or_default(),
            tags: self.tags.filter(|tags| !tags.is_empty()),
            not_tags: self.not_tags.unwrap_or_default(),
        };
        let lengths = [
            filters.spaces.as_ref().map_or(0, Vec::len),
            filters.room_types.as_ref().map_or(0, Vec::len),
            filters.not_room_types.len(),
            filters.tags.as_ref().map_or(0, Vec::len),
            filters.not_tags.len(),
        ];
        if lengths.into_iter().any(|length| length > MOST_LISTS) {
            return Err(MatrixError::invalid_param("a filter names at most 100 of each kind"));
        }
        Ok(filters)
    }
}

impl Extensions {
    fn into_extensions(self) -> Result<SlidingExtensions, MatrixError> {
        let is_on = |enabled: Option<bool>| enabled.unwrap_or(false);
        let of_rooms = |extension: Option<OfRooms>| match extension.filter(|wanted| is_on(wanted.enabled)) {
            None => Ok(None),
            Some(OfRooms { lists, rooms, .. }) => {
                let is_long = |names: &Option<Vec<String>>| {
                    names.as_ref().is_some_and(|names| names.len() > MOST_SUBSCRIPTIONS)
                };
                if is_long(&lists) || is_long(&rooms) {
                    return Err(MatrixError::invalid_param("an extension names at most 500 lists and rooms"));
                }
                Ok(Some(RoomsOfExtension { lists, rooms }))
            }
        };
        let paged = |extension: Option<Paged>| {
            let wanted = extension.filter(|wanted| is_on(wanted.enabled))?;
            let limit = wanted.limit.and_then(|limit| usize::try_from(limit).ok());
            Some((wanted.since.filter(|since| !since.is_empty()), limit))
        };
        Ok(SlidingExtensions {
            to_device: paged(self.to_device).map(|(since, limit)| ToDeviceExtension { since, limit }),
            sticky_events: paged(self.sticky_events)
                .map(|(since, limit)| StickyEventsExtension { since, limit }),
            e2ee: self.e2ee.is_some_and(|wanted| is_on(wanted.enabled)),
            account_data: of_rooms(self.account_data)?,
            receipts: of_rooms(self.receipts)?,
            typing: of_rooms(self.typing)?,
        })
    }
}

fn bounded(name: &str) -> Result<(), MatrixError> {
    if name.len() > MOST_NAME_BYTES {
        return Err(MatrixError::invalid_param(
            "names of lists, event types and state keys have at most 255 bytes",
        ));
    }
    Ok(())
}

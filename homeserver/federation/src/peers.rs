//! What is asked of other servers, as rooms need it.

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use ruma::{
    CanonicalJsonObject, EventId, OwnedEventId, OwnedServerName, RoomId, RoomVersionId, ServerName, UserId,
    serde::Base64,
};
use serde::Deserialize;

use crate::FederationError;

/// What a server answers, or why it did not.
pub type Asked<'a, T> = BoxFuture<'a, Result<T, FederationError>>;

/// A membership event that is to be signed (S-S API, `GET /make_join`, `/make_leave`, `/make_knock`).
#[derive(Clone, Debug)]
pub struct MembershipTemplate {
    /// The room's version; 1 where the server names none.
    pub version: RoomVersionId,
    /// The event, without hash and signature.
    pub event: CanonicalJsonObject,
}

/// What a server tells of a room into which it let somebody (S-S API, `PUT /v2/send_join`).
#[derive(Clone, Debug, Default)]
pub struct SendJoin {
    /// The state before the join.
    pub state: Vec<CanonicalJsonObject>,
    /// What authorises it.
    pub auth_chain: Vec<CanonicalJsonObject>,
    /// The join with the signatures of those who let the user in.
    pub event: Option<CanonicalJsonObject>,
    /// Whether memberships were left out of the state, and what authorises them out of the rest (`members_omitted`).
    pub omits_members: bool,
}

/// A state and what authorises it (S-S API, `GET /state`).
#[derive(Clone, Debug, Default)]
pub struct StateAnswer {
    /// The state.
    pub state: Vec<CanonicalJsonObject>,
    /// What authorises it.
    pub auth_chain: Vec<CanonicalJsonObject>,
}

/// The same by ids (S-S API, `GET /state_ids`).
#[derive(Clone, Debug, Default)]
pub struct StateIdsAnswer {
    /// The state.
    pub state: Vec<OwnedEventId>,
    /// What authorises it.
    pub auth_chain: Vec<OwnedEventId>,
}

/// An event and when it was sent (S-S API, `GET /timestamp_to_event`).
#[derive(Clone, Debug, Deserialize)]
pub struct EventAt {
    /// Its id.
    pub event_id: OwnedEventId,
    /// In ms since 1970.
    pub origin_server_ts: u64,
}

/// Requests to other servers about rooms. Answers are bounded in size, and nothing in them was checked.
pub trait Peers: Send + Sync + 'static {
    /// `GET /make_{join,leave,knock}`: `membership` is the word of the event.
    fn make_membership<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        user_id: &'a UserId,
        membership: &'a str,
    ) -> Asked<'a, MembershipTemplate>;

    /// `PUT /v2/send_join`. `omit_members`: memberships need not be told.
    fn send_join<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
        event: &'a CanonicalJsonObject,
        omit_members: bool,
    ) -> Asked<'a, SendJoin>;

    /// `PUT /v2/send_leave`.
    fn send_leave<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
        event: &'a CanonicalJsonObject,
    ) -> Asked<'a, ()>;

    /// `PUT /v1/send_knock`: the stripped state of the room.
    fn send_knock<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
        event: &'a CanonicalJsonObject,
    ) -> Asked<'a, Vec<CanonicalJsonObject>>;

    /// `PUT /v2/invite`: the invite with that server's signature.
    fn invite<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
        version: &'a RoomVersionId,
        event: &'a CanonicalJsonObject,
        told: &'a [CanonicalJsonObject],
    ) -> Asked<'a, CanonicalJsonObject>;

    /// `POST /get_missing_events`.
    fn missing_events<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        earliest: &'a [OwnedEventId],
        latest: &'a [OwnedEventId],
        limit: usize,
    ) -> Asked<'a, Vec<CanonicalJsonObject>>;

    /// `GET /backfill`.
    fn backfill<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        from: &'a [OwnedEventId],
        limit: usize,
    ) -> Asked<'a, Vec<CanonicalJsonObject>>;

    /// `GET /event`.
    fn event<'a>(&'a self, server: &'a ServerName, event_id: &'a EventId) -> Asked<'a, CanonicalJsonObject>;

    /// `GET /timestamp_to_event`: the event that is closest to a time in ms since 1970, `forward` or backward from it.
    fn event_at<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        at: u64,
        forward: bool,
    ) -> Asked<'a, EventAt>;

    /// `GET /state`.
    fn state<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
    ) -> Asked<'a, StateAnswer>;

    /// `GET /state_ids`.
    fn state_ids<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
    ) -> Asked<'a, StateIdsAnswer>;

    /// `GET /event_auth`.
    fn event_auth<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
    ) -> Asked<'a, Vec<CanonicalJsonObject>>;
}

/// Keys of one server that are needed to check signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedKeys {
    /// Whose.
    pub server: OwnedServerName,
    /// Which: `ed25519:…`.
    pub key_ids: Vec<String>,
    /// Until when they should be good, in ms since 1970: what is known to be good for less is asked for again.
    pub good_until: u64,
}

/// A signing key of another server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownKey {
    /// The Ed25519 key.
    pub key: Base64,
    /// Until when it is good, in ms since 1970.
    pub good_until: u64,
}

/// Signing keys by server and key id.
pub type KnownKeys = BTreeMap<OwnedServerName, BTreeMap<String, KnownKey>>;

/// The signing keys of all servers.
pub trait KeyRing: Send + Sync + 'static {
    /// Those of the keys that can be had.
    fn keys<'a>(&'a self, wanted: &'a [WantedKeys]) -> BoxFuture<'a, KnownKeys>;
}

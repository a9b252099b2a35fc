//! The requests of the server-server API.

use std::{fmt::Write as _, time::Duration};

use entente_rooms::{ROOM_VERSIONS, RoomElsewhere};
use futures_util::future::FutureExt;
use http::Method;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedEventId, OwnedRoomId, OwnedServerName,
    RoomAliasId, RoomId, RoomVersionId, ServerName, UserId,
};
use serde::Deserialize;
use serde_json::Value;

use super::{Ask, Client};
use crate::{
    EventAt, FederationError, MembershipTemplate, Peers, SendJoin, StateAnswer, StateIdsAnswer, json,
    peers::Asked,
};

/// The state of a very large room.
const MOST_STATE_BYTES: usize = 64 * 1024 * 1024;
/// A list of events.
const MOST_EVENTS_BYTES: usize = 16 * 1024 * 1024;
/// A room in a few words, and those in it.
const MOST_PREVIEW_BYTES: usize = 512 * 1024;
/// A token for a call, and where to go with it.
const MOST_TOKEN_BYTES: usize = 64 * 1024;
/// How long a server may take to tell what is missing: somebody else's events wait for it.
const GAP_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a server may take to find an event by its time: a client waits for it.
const TIME_TIMEOUT: Duration = Duration::from_secs(10);
/// How long somebody waits who joins a very large room.
const JOIN_TIMEOUT: Duration = Duration::from_secs(180);

/// Where an alias leads.
#[derive(Clone, Debug, Deserialize)]
pub struct DirectoryAnswer {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Servers in it.
    #[serde(default)]
    pub servers: Vec<OwnedServerName>,
}

#[derive(Deserialize)]
struct TemplateBody {
    room_version: Option<RoomVersionId>,
    #[serde(deserialize_with = "json::object")]
    event: CanonicalJsonObject,
}

#[derive(Deserialize)]
struct SendJoinBody {
    #[serde(deserialize_with = "json::events")]
    state: Vec<CanonicalJsonObject>,
    #[serde(deserialize_with = "json::events")]
    auth_chain: Vec<CanonicalJsonObject>,
    event: Option<CanonicalJsonObject>,
    #[serde(default)]
    members_omitted: bool,
}

#[derive(Deserialize)]
struct KnockBody {
    #[serde(default, deserialize_with = "json::stripped")]
    knock_room_state: Vec<CanonicalJsonObject>,
}

#[derive(Deserialize)]
struct InviteBody {
    #[serde(deserialize_with = "json::object")]
    event: CanonicalJsonObject,
}

#[derive(Deserialize)]
struct EventsBody {
    #[serde(default, deserialize_with = "json::events")]
    events: Vec<CanonicalJsonObject>,
}

#[derive(Deserialize)]
struct PdusBody {
    #[serde(default, deserialize_with = "json::events")]
    pdus: Vec<CanonicalJsonObject>,
    #[serde(default, deserialize_with = "json::events")]
    auth_chain: Vec<CanonicalJsonObject>,
}

#[derive(Deserialize)]
struct IdsBody {
    #[serde(default)]
    pdu_ids: Vec<OwnedEventId>,
    #[serde(default)]
    auth_chain_ids: Vec<OwnedEventId>,
}

#[derive(Deserialize)]
struct AuthChainBody {
    #[serde(default, deserialize_with = "json::events")]
    auth_chain: Vec<CanonicalJsonObject>,
}

/// A path of segments behind `/_matrix/federation`, each percent-encoded.
pub(super) fn path(segments: &[&str]) -> String {
    let mut path = String::from("/_matrix/federation");
    for segment in segments {
        path.push('/');
        path.push_str(&encoded(segment));
    }
    path
}

/// Text for a path or a query: all but the unreserved characters of RFC 3986 encoded.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

pub(super) fn with_query(path: String, pairs: &[(&str, &str)]) -> String {
    let mut target = path;
    for (index, (name, value)) in pairs.iter().enumerate() {
        target.push(if index == 0 { '?' } else { '&' });
        target.push_str(name);
        target.push('=');
        target.push_str(&encoded(value));
    }
    target
}

fn object(pairs: impl IntoIterator<Item = (&'static str, CanonicalJsonValue)>) -> CanonicalJsonObject {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn ids(ids: &[OwnedEventId]) -> CanonicalJsonValue {
    CanonicalJsonValue::Array(ids.iter().map(|id| CanonicalJsonValue::String(id.to_string())).collect())
}

fn whole(number: usize) -> CanonicalJsonValue {
    CanonicalJsonValue::Integer(i32::try_from(number).unwrap_or(i32::MAX).into())
}

impl Client {
    /// `PUT /send`: `body` is a transaction. Answers what the server says of its events.
    pub async fn send_transaction(
        &self,
        server: &ServerName,
        transaction_id: &str,
        body: &CanonicalJsonObject,
    ) -> Result<Value, FederationError> {
        let target = path(&["v1", "send", transaction_id]);
        self.ask(server, Ask::with(Method::PUT, target, body)).await
    }

    /// `GET /query/directory`.
    pub async fn query_directory(
        &self,
        server: &ServerName,
        alias: &RoomAliasId,
    ) -> Result<DirectoryAnswer, FederationError> {
        let target = with_query(path(&["v1", "query", "directory"]), &[("room_alias", alias.as_str())]);
        self.ask(server, Ask::get(target)).await
    }

    /// `GET /query/profile`: all fields, or one.
    pub async fn query_profile(
        &self,
        server: &ServerName,
        user_id: &UserId,
        field: Option<&str>,
    ) -> Result<Value, FederationError> {
        let mut pairs = vec![("user_id", user_id.as_str())];
        pairs.extend(field.map(|field| ("field", field)));
        self.ask(server, Ask::get(with_query(path(&["v1", "query", "profile"]), &pairs))).await
    }

    /// `GET /user/devices`.
    pub async fn user_devices(
        &self,
        server: &ServerName,
        user_id: &UserId,
    ) -> Result<Value, FederationError> {
        self.ask(server, Ask::get(path(&["v1", "user", "devices", user_id.as_str()]))).await
    }

    /// `POST /user/keys/query` and `/user/keys/claim`: `which` is the last word.
    pub async fn user_keys(
        &self,
        server: &ServerName,
        which: &str,
        body: &CanonicalJsonObject,
        timeout: Duration,
    ) -> Result<Value, FederationError> {
        let target = path(&["v1", "user", "keys", which]);
        self.ask(server, Ask::with(Method::POST, target, body).within(timeout)).await
    }

    /// `POST /publicRooms`.
    pub async fn public_rooms(
        &self,
        server: &ServerName,
        body: &CanonicalJsonObject,
    ) -> Result<Value, FederationError> {
        self.ask(server, Ask::with(Method::POST, path(&["v1", "publicRooms"]), body)).await
    }

    /// `GET /hierarchy`.
    pub async fn hierarchy(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        suggested_only: bool,
        timeout: Duration,
    ) -> Result<RoomElsewhere, FederationError> {
        let suggested_only = if suggested_only { "true" } else { "false" };
        let target = path(&["v1", "hierarchy", room_id.as_str()]);
        let ask = Ask::get(with_query(target, &[("suggested_only", suggested_only)]));
        self.ask(server, ask.up_to(MOST_PREVIEW_BYTES).within(timeout)).await
    }

    /// `PUT /exchange_third_party_invite`: has the server of whoever invited an address invite the user whom it turned out to be.
    pub async fn exchange_third_party_invite(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event: &CanonicalJsonObject,
    ) -> Result<(), FederationError> {
        let target = path(&["v1", "exchange_third_party_invite", room_id.as_str()]);
        self.ask::<Value>(server, Ask::with(Method::PUT, target, event)).await?;
        Ok(())
    }

    /// `GET /openid/userinfo`: whose token it is. The server need not answer anything else.
    pub async fn openid_userinfo(&self, server: &ServerName, token: &str) -> Result<Value, FederationError> {
        let target = with_query(path(&["v1", "openid", "userinfo"]), &[("access_token", token)]);
        self.ask(server, Ask::get(target)).await
    }

    /// `POST /rtc/livekit/get_token` (MSC4195): a token for a call that is held at that server.
    pub async fn livekit_token(
        &self,
        server: &ServerName,
        body: &CanonicalJsonObject,
    ) -> Result<Value, FederationError> {
        let target = path(&["unstable", "io.element.msc4195", "rtc", "livekit", "get_token"]);
        self.ask(server, Ask::with(Method::POST, target, body).up_to(MOST_TOKEN_BYTES).insisting()).await
    }

    /// `GET /_matrix/key/v2/server`.
    pub(crate) async fn server_keys(
        &self,
        server: &ServerName,
    ) -> Result<CanonicalJsonObject, FederationError> {
        self.ask(server, Ask::get(String::from("/_matrix/key/v2/server")).up_to(64 * 1024)).await
    }

    /// `POST /_matrix/key/v2/query`: what a notary says of others' keys.
    pub(crate) async fn query_keys(
        &self,
        notary: &ServerName,
        body: &CanonicalJsonObject,
    ) -> Result<Vec<CanonicalJsonObject>, FederationError> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            server_keys: Vec<CanonicalJsonObject>,
        }
        let ask = Ask::with(Method::POST, String::from("/_matrix/key/v2/query"), body);
        Ok(self.ask::<Answer>(notary, ask).await?.server_keys)
    }
}

impl Peers for Client {
    fn make_membership<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        user_id: &'a UserId,
        membership: &'a str,
    ) -> Asked<'a, MembershipTemplate> {
        async move {
            let endpoint = format!("make_{membership}");
            let versions: Vec<(&str, &str)> = match membership {
                "leave" => Vec::new(),
                _ => ROOM_VERSIONS.iter().map(|version| ("ver", version.as_str())).collect(),
            };
            let target = path(&["v1", &endpoint, room_id.as_str(), user_id.as_str()]);
            let ask = Ask::get(with_query(target, &versions)).insisting();
            let TemplateBody { room_version, event } = self.ask(server, ask).await?;
            Ok(MembershipTemplate { version: room_version.unwrap_or(RoomVersionId::V1), event })
        }
        .boxed()
    }

    fn send_join<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
        event: &'a CanonicalJsonObject,
        omit_members: bool,
    ) -> Asked<'a, SendJoin> {
        async move {
            let target = path(&["v2", "send_join", room_id.as_str(), event_id.as_str()]);
            let target = if omit_members { with_query(target, &[("omit_members", "true")]) } else { target };
            let ask = Ask::with(Method::PUT, target, event).up_to(MOST_STATE_BYTES).within(JOIN_TIMEOUT);
            let SendJoinBody { state, auth_chain, event, members_omitted } = self.ask(server, ask).await?;
            Ok(SendJoin { state, auth_chain, event, omits_members: members_omitted })
        }
        .boxed()
    }

    fn send_leave<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
        event: &'a CanonicalJsonObject,
    ) -> Asked<'a, ()> {
        async move {
            let target = path(&["v2", "send_leave", room_id.as_str(), event_id.as_str()]);
            self.ask::<Value>(server, Ask::with(Method::PUT, target, event)).await?;
            Ok(())
        }
        .boxed()
    }

    fn send_knock<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
        event: &'a CanonicalJsonObject,
    ) -> Asked<'a, Vec<CanonicalJsonObject>> {
        async move {
            let target = path(&["v1", "send_knock", room_id.as_str(), event_id.as_str()]);
            let body: KnockBody = self.ask(server, Ask::with(Method::PUT, target, event)).await?;
            Ok(body.knock_room_state)
        }
        .boxed()
    }

    fn invite<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
        version: &'a RoomVersionId,
        event: &'a CanonicalJsonObject,
        told: &'a [CanonicalJsonObject],
    ) -> Asked<'a, CanonicalJsonObject> {
        async move {
            let target = path(&["v2", "invite", room_id.as_str(), event_id.as_str()]);
            let told = told.iter().cloned().map(CanonicalJsonValue::Object).collect();
            let body = object([
                ("room_version", CanonicalJsonValue::String(version.to_string())),
                ("event", CanonicalJsonValue::Object(event.clone())),
                ("invite_room_state", CanonicalJsonValue::Array(told)),
            ]);
            let answer: InviteBody =
                self.ask(server, Ask::with(Method::PUT, target, &body).insisting()).await?;
            Ok(answer.event)
        }
        .boxed()
    }

    fn missing_events<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        earliest: &'a [OwnedEventId],
        latest: &'a [OwnedEventId],
        limit: usize,
    ) -> Asked<'a, Vec<CanonicalJsonObject>> {
        async move {
            let target = path(&["v1", "get_missing_events", room_id.as_str()]);
            let body = object([
                ("earliest_events", ids(earliest)),
                ("latest_events", ids(latest)),
                ("limit", whole(limit)),
                ("min_depth", whole(0)),
            ]);
            let ask = Ask::with(Method::POST, target, &body).up_to(MOST_EVENTS_BYTES).within(GAP_TIMEOUT);
            Ok(self.ask::<EventsBody>(server, ask).await?.events)
        }
        .boxed()
    }

    fn backfill<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        from: &'a [OwnedEventId],
        limit: usize,
    ) -> Asked<'a, Vec<CanonicalJsonObject>> {
        async move {
            let limit = limit.to_string();
            let mut pairs: Vec<(&str, &str)> = from.iter().map(|id| ("v", id.as_str())).collect();
            pairs.push(("limit", &limit));
            let target = with_query(path(&["v1", "backfill", room_id.as_str()]), &pairs);
            Ok(self.ask::<PdusBody>(server, Ask::get(target).up_to(MOST_EVENTS_BYTES)).await?.pdus)
        }
        .boxed()
    }

    fn event<'a>(&'a self, server: &'a ServerName, event_id: &'a EventId) -> Asked<'a, CanonicalJsonObject> {
        async move {
            let body: PdusBody =
                self.ask(server, Ask::get(path(&["v1", "event", event_id.as_str()]))).await?;
            let event = body.pdus.into_iter().next();
            event.ok_or_else(|| FederationError::BadAnswer {
                server: server.to_owned(),
                reason: String::from("there is no event in it"),
            })
        }
        .boxed()
    }

    fn event_at<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        at: u64,
        forward: bool,
    ) -> Asked<'a, EventAt> {
        async move {
            let at = at.to_string();
            let pairs = [("ts", at.as_str()), ("dir", if forward { "f" } else { "b" })];
            let target = with_query(path(&["v1", "timestamp_to_event", room_id.as_str()]), &pairs);
            self.ask(server, Ask::get(target).within(TIME_TIMEOUT)).await
        }
        .boxed()
    }

    fn state<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
    ) -> Asked<'a, StateAnswer> {
        async move {
            let target = path(&["v1", "state", room_id.as_str()]);
            let target = with_query(target, &[("event_id", event_id.as_str())]);
            let body: PdusBody = self.ask(server, Ask::get(target).up_to(MOST_STATE_BYTES)).await?;
            Ok(StateAnswer { state: body.pdus, auth_chain: body.auth_chain })
        }
        .boxed()
    }

    fn state_ids<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
    ) -> Asked<'a, StateIdsAnswer> {
        async move {
            let target = path(&["v1", "state_ids", room_id.as_str()]);
            let target = with_query(target, &[("event_id", event_id.as_str())]);
            let ask = Ask::get(target).up_to(MOST_EVENTS_BYTES).within(GAP_TIMEOUT);
            let body: IdsBody = self.ask(server, ask).await?;
            Ok(StateIdsAnswer { state: body.pdu_ids, auth_chain: body.auth_chain_ids })
        }
        .boxed()
    }

    fn event_auth<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
    ) -> Asked<'a, Vec<CanonicalJsonObject>> {
        async move {
            let target = path(&["v1", "event_auth", room_id.as_str(), event_id.as_str()]);
            let ask = Ask::get(target).up_to(MOST_EVENTS_BYTES).within(GAP_TIMEOUT);
            let body: AuthChainBody = self.ask(server, ask).await?;
            Ok(body.auth_chain)
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_encoded() {
        let target = path(&["v1", "event", "$a/b+c:d.example"]);
        assert_eq!(target, "/_matrix/federation/v1/event/%24a%2Fb%2Bc%3Ad.example");
        assert_eq!(with_query(String::from("/x"), &[("v", "$é"), ("limit", "1")]), "/x?v=%24%C3%A9&limit=1");
    }
}

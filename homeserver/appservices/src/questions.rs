//! What services are asked: whether they answer, who and what is theirs, what they know of other networks.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::Method;
use ruma::{RoomAliasId, UserId};
use serde_json::{Map, Value, json};

use crate::{
    AppServiceError, AppServices, Registration,
    client::{QUERY_TIMEOUT, Question, STABLE},
};

/// What is looked for in other networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThirdPartyKind {
    /// Rooms.
    Location,
    /// Users.
    User,
}

impl ThirdPartyKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Location => "location",
            Self::User => "user",
        }
    }
}

/// A user or an alias that no service has is not asked for again for so long.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// The prefix of look-ups from before they were in the spec.
const LEGACY: [&str; 4] = ["_matrix", "app", "unstable", "thirdparty"];

impl AppServices {
    /// Asks a service whether it hears this server (A-S API, `POST /ping`). Answers how long that took.
    pub async fn ping(
        &self,
        service: &Registration,
        transaction_id: Option<&str>,
    ) -> Result<Duration, AppServiceError> {
        let body = transaction_id.map_or(json!({}), |id| json!({ "transaction_id": id }));
        let question = Question {
            method: Method::POST,
            prefix: &STABLE,
            path: &["ping"],
            legacy_path: None,
            query: &[],
            body: Some(Bytes::from(body.to_string())),
            timeout: QUERY_TIMEOUT,
        };
        let clock = self.environment().clock();
        let begun = clock.monotonic();
        self.inner.client.ask(service, &question).await?;
        Ok(clock.monotonic().saturating_duration_since(begun))
    }

    /// Asks the services whose namespace an unknown user is in whether they have that user. One that says yes has made the user
    /// by then (A-S API, `GET /users/{userId}`).
    pub async fn query_user(&self, user_id: &UserId) -> bool {
        self.query("users", user_id.as_str(), |service| service.may_be(user_id)).await
    }

    /// The same for an alias (A-S API, `GET /rooms/{roomAlias}`).
    pub async fn query_alias(&self, alias: &RoomAliasId) -> bool {
        self.query("rooms", alias.as_str(), |service| service.is_alias(alias)).await
    }

    async fn query(&self, kind: &str, id: &str, is_theirs: impl Fn(&Registration) -> bool) -> bool {
        let now = self.environment().clock().monotonic();
        if self.inner.silences.holds(id, now) {
            return false;
        }
        let (mut refused, mut in_doubt) = (false, false);
        for service in self.registry().services() {
            if service.url.is_none() || !is_theirs(service) {
                continue;
            }
            let path = [kind, id];
            match self.inner.client.ask(service, &Question::get(&path, &path)).await {
                Ok(_) => return true,
                Err(AppServiceError::Status { status: 404, .. }) => refused = true,
                Err(error) => {
                    in_doubt = true;
                    tracing::warn!(service = service.id, %error, "an application service could not be asked");
                }
            }
        }
        if refused && !in_doubt {
            let now = self.environment().clock().monotonic();
            self.inner.silences.note(id.to_owned(), now, REFUSED_FOR);
        }
        false
    }

    /// What services tell about the protocols that they bridge (A-S API, `GET /thirdparty/protocol/{protocol}`): of all, or of one.
    /// Several services of one protocol have their instances together.
    pub async fn protocols(&self, wanted: Option<&str>) -> Map<String, Value> {
        let mut found: Map<String, Value> = Map::new();
        for (service, protocol) in self.bridges(wanted) {
            let path = ["thirdparty", "protocol", protocol.as_str()];
            let legacy: Vec<&str> = LEGACY.into_iter().chain(["protocol", protocol.as_str()]).collect();
            let Some(Value::Object(mut told)) =
                self.answer_of(&service, &Question::get(&path, &legacy)).await
            else {
                continue;
            };
            for instance in told.get_mut("instances").and_then(Value::as_array_mut).into_iter().flatten() {
                name_instance(&service, instance);
            }
            let Some(known) = found.get_mut(&protocol) else {
                found.insert(protocol, Value::Object(told));
                continue;
            };
            if let (Some(Value::Array(known)), Some(Value::Array(more))) =
                (known.get_mut("instances"), told.get("instances"))
            {
                known.extend(more.iter().cloned());
            }
        }
        found
    }

    /// Finds rooms or users of other networks by fields that their protocol has.
    pub async fn third_party(
        &self,
        kind: ThirdPartyKind,
        protocol: &str,
        fields: &[(String, String)],
    ) -> Vec<Value> {
        let mut found = Vec::new();
        let path = ["thirdparty", kind.as_str(), protocol];
        let legacy: Vec<&str> = LEGACY.into_iter().chain([kind.as_str(), protocol]).collect();
        for (service, _) in self.bridges(Some(protocol)) {
            let question = Question { query: fields, ..Question::get(&path, &legacy) };
            if let Some(Value::Array(told)) = self.answer_of(&service, &question).await {
                found.extend(told);
            }
        }
        found
    }

    /// Finds what an alias or a user here is in other networks.
    pub async fn third_party_of(&self, kind: ThirdPartyKind, id: &str) -> Vec<Value> {
        let mut found = Vec::new();
        let path = ["thirdparty", kind.as_str()];
        let legacy: Vec<&str> = LEGACY.into_iter().chain([kind.as_str()]).collect();
        let name = if kind == ThirdPartyKind::Location { "alias" } else { "userid" };
        let query = [(name.to_owned(), id.to_owned())];
        for service in self.registry().services() {
            let is_theirs = match kind {
                ThirdPartyKind::Location => {
                    RoomAliasId::parse(id).is_ok_and(|alias| service.is_alias(&alias))
                }
                ThirdPartyKind::User => service.is_user(id),
            };
            if !is_theirs {
                continue;
            }
            let question = Question { query: &query, ..Question::get(&path, &legacy) };
            if let Some(Value::Array(told)) = self.answer_of(service, &question).await {
                found.extend(told);
            }
        }
        found
    }

    /// The services that bridge a protocol, or any, each with the protocol's name.
    fn bridges(&self, wanted: Option<&str>) -> Vec<(Arc<Registration>, String)> {
        let mut bridges = Vec::new();
        for service in self.registry().services().iter().filter(|service| service.url.is_some()) {
            for protocol in &service.protocols {
                if wanted.is_none_or(|wanted| wanted == protocol) {
                    bridges.push((Arc::clone(service), protocol.clone()));
                }
            }
        }
        bridges
    }

    /// A JSON answer; none from a service that does not answer properly, which others must not suffer for.
    async fn answer_of(&self, service: &Registration, question: &Question<'_>) -> Option<Value> {
        let answer = self.inner.client.ask(service, question).await;
        let parsed = answer.and_then(|body| {
            serde_json::from_slice(&body).map_err(|error| AppServiceError::BadAnswer(error.to_string()))
        });
        match parsed {
            Ok(value) => Some(value),
            Err(AppServiceError::Status { status: 404, .. }) => None,
            Err(error) => {
                tracing::warn!(service = service.id, %error, "an application service could not be asked");
                None
            }
        }
    }
}

/// Gives an instance of a protocol the id by which its rooms are found in the directory (C-S API, `GET /thirdparty/protocols`).
fn name_instance(service: &Registration, instance: &mut Value) {
    let network_id = instance.get("network_id").and_then(Value::as_str).map(str::to_owned);
    if let (Some(network_id), Some(fields)) = (network_id, instance.as_object_mut()) {
        fields.insert(String::from("instance_id"), Value::String(service.instance_id(&network_id)));
    }
}

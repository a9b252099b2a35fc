//! Signing keys: this server's for others, and others' for this one (S-S API, "Retrieving server keys").

pub(crate) mod answer;
mod authentication;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use entente_environment::{Environment, Timestamp};
use entente_rooms::SigningKeys;
use entente_storage::{Store, Transaction};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use quick_cache::sync::Cache;
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName, serde::Base64};

use self::answer::KeyAnswer;
pub use self::authentication::{Authenticated, Claim};
use crate::{
    Client, FederationError, KeyRing, KnownKey, KnownKeys, WantedKeys,
    backoff::key as lower_case,
    rows::{self, KeyAnswerRow, ServerKeyRow},
    turns::Turns,
};

/// For how long others may take this server's keys for good.
const OWN_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// Others' keys are asked for again after so long, whatever they say (S-S API: "the lesser of this field and 7 days").
const LONGEST_LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// A server is asked for its keys at most this often.
const SHORTEST_PAUSE: Duration = Duration::from_secs(60);
/// Before it is asked again after it could not be asked: meanwhile what it signed is refused.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(5);
/// Before it is asked again at once, for whoever waits for its keys.
const PAUSES: [Duration; 2] = [Duration::from_millis(1_100), Duration::from_millis(2_200)];
/// Servers that are asked at the same time.
const AT_ONCE: usize = 20;
/// Servers whose keys are remembered.
const MOST_SERVERS: usize = 5_000;

/// The keys of all servers. Cheap to clone.
#[derive(Clone)]
pub struct Keys {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    environment: Environment,
    own: SigningKeys,
    client: Client,
    notaries: Vec<OwnedServerName>,
    asking: Turns,
    /// When servers may be asked again.
    asked: Cache<String, Timestamp>,
    known: Cache<String, Arc<BTreeMap<String, KnownKey>>>,
}

impl Keys {
    /// The keys in a store. `notaries` are asked where a server cannot be asked itself.
    pub fn new(
        store: Store,
        environment: Environment,
        own: SigningKeys,
        client: Client,
        notaries: Vec<OwnedServerName>,
    ) -> Self {
        let inner = Inner {
            store,
            environment,
            own,
            client,
            notaries,
            asking: Turns::default(),
            asked: Cache::new(MOST_SERVERS),
            known: Cache::new(MOST_SERVERS),
        };
        Self { inner: Arc::new(inner) }
    }

    /// This server's keys, signed (`GET /_matrix/key/v2/server`).
    pub async fn own(&self) -> Result<CanonicalJsonObject, FederationError> {
        let Inner { own, environment, .. } = &*self.inner;
        let text = |text: String| CanonicalJsonValue::String(text);
        let one = |key: &[u8]| {
            let key = Base64::<ruma::serde::base64::Standard>::new(key.to_vec()).encode();
            CanonicalJsonObject::from([(String::from("key"), text(key))])
        };
        let current = own.current();
        let name = format!("ed25519:{}", current.version());
        let verify_keys =
            CanonicalJsonObject::from([(name, CanonicalJsonValue::Object(one(&current.public_key())))]);
        let mut old_verify_keys = CanonicalJsonObject::new();
        for retired in own.retired().await? {
            let mut key = one(&retired.public_key);
            key.insert(String::from("expired_ts"), milliseconds(retired.expired_at));
            old_verify_keys.insert(format!("ed25519:{}", retired.version), CanonicalJsonValue::Object(key));
        }
        let mut answer = CanonicalJsonObject::from([
            (String::from("server_name"), text(own.server_name().to_string())),
            (String::from("valid_until_ts"), milliseconds(environment.now().after(OWN_LIFETIME))),
            (String::from("verify_keys"), CanonicalJsonValue::Object(verify_keys)),
            (String::from("old_verify_keys"), CanonicalJsonValue::Object(old_verify_keys)),
        ]);
        own.sign(&mut answer)?;
        Ok(answer)
    }

    /// What a server says of its keys, with this server's signature as a notary (`GET /_matrix/key/v2/query`). It is asked for again
    /// if what is known does not hold until `good_until`. Empty if the server cannot be asked.
    pub async fn notarised(
        &self,
        server: &ServerName,
        good_until: Timestamp,
    ) -> Result<Vec<CanonicalJsonObject>, FederationError> {
        let mut answer = if server == self.inner.own.server_name() {
            self.own().await?
        } else {
            self.inner.client.policy().check_either(server)?;
            let row = self.stored_answer(server).await?;
            let is_good = row.as_ref().is_some_and(|row| row.valid_until >= good_until.millis());
            if !is_good {
                self.fetch(server).await;
            }
            let Some(row) = self.stored_answer(server).await? else { return Ok(Vec::new()) };
            serde_json::from_str(&row.json).map_err(|error| FederationError::Internal(error.to_string()))?
        };
        self.inner.own.sign(&mut answer)?;
        Ok(vec![answer])
    }

    async fn stored_answer(&self, server: &ServerName) -> Result<Option<KeyAnswerRow>, FederationError> {
        Ok(self.inner.store.snapshot().await?.get(&rows::KEY_ANSWERS, lower_case(server)).await?)
    }

    /// The keys of a server that are known.
    async fn known(&self, server: &ServerName) -> Result<Arc<BTreeMap<String, KnownKey>>, FederationError> {
        let name = lower_case(server);
        if let Some(known) = self.inner.known.get(&name) {
            return Ok(known);
        }
        let snapshot = self.inner.store.snapshot().await?;
        let rows = snapshot.scan_all(rows::SERVER_KEYS.scan((name.as_str(),))).await?;
        let key = |((_, key_id), row): ((String, String), ServerKeyRow)| {
            (key_id, KnownKey { key: Base64::new(row.key), good_until: row.valid_until })
        };
        let known = Arc::new(rows.into_iter().map(key).collect::<BTreeMap<_, _>>());
        self.inner.known.insert(name, Arc::clone(&known));
        Ok(known)
    }

    /// The keys of a server, asked for if those that are known do not do.
    async fn of_server(
        &self,
        wanted: &WantedKeys,
    ) -> Result<Arc<BTreeMap<String, KnownKey>>, FederationError> {
        let server = &wanted.server;
        let does = |known: &BTreeMap<String, KnownKey>| {
            let is_good =
                |key_id: &String| known.get(key_id).is_some_and(|key| key.good_until >= wanted.good_until);
            wanted.key_ids.iter().all(is_good)
        };
        let known = self.known(server).await?;
        if does(&known) {
            return Ok(known);
        }
        let _turn = self.inner.asking.take(&lower_case(server)).await;
        let known = self.known(server).await?;
        if does(&known) {
            return Ok(known);
        }
        self.fetch(server).await;
        self.known(server).await
    }

    /// Asks a server for its keys, or the notaries if it cannot be asked. What fails leaves a line in the log.
    async fn fetch(&self, server: &ServerName) {
        let name = lower_case(server);
        let now = self.inner.environment.now();
        if self.inner.asked.get(&name).is_some_and(|until| now < until) {
            return;
        }
        // Who waits for this may go away in the middle of it: then nobody was asked.
        self.inner.asked.insert(name.clone(), now.after(PAUSE_AFTER_FAILURE));
        let mut outcome = self.fetch_patiently(server).await;
        for notary in &self.inner.notaries {
            if outcome.is_ok() {
                break;
            }
            outcome = self.fetch_from(notary, server).await;
        }
        let pause = match outcome {
            Ok(()) => SHORTEST_PAUSE,
            Err(error) => {
                tracing::info!(%server, %error, "the keys of a server cannot be had");
                if error.may_pass() { PAUSE_AFTER_FAILURE } else { SHORTEST_PAUSE }
            }
        };
        self.inner.asked.insert(name, self.inner.environment.now().after(pause));
    }

    /// Asks a server itself, again when it could not be asked for a moment.
    async fn fetch_patiently(&self, server: &ServerName) -> Result<(), FederationError> {
        for pause in PAUSES {
            match self.inner.client.server_keys(server).await {
                Err(error) if error.may_pass_soon() => tokio::time::sleep(pause).await,
                Err(error) => return Err(error),
                Ok(answer) => return self.take(server, answer).await,
            }
        }
        self.take(server, self.inner.client.server_keys(server).await?).await
    }

    async fn fetch_from(&self, notary: &ServerName, server: &ServerName) -> Result<(), FederationError> {
        let wanted = CanonicalJsonObject::from([(
            server.to_string(),
            CanonicalJsonValue::Object(CanonicalJsonObject::new()),
        )]);
        let body =
            CanonicalJsonObject::from([(String::from("server_keys"), CanonicalJsonValue::Object(wanted))]);
        let answers = self.inner.client.query_keys(notary, &body).await?;
        let bad = |reason: &str| FederationError::BadAnswer {
            server: notary.to_owned(),
            reason: reason.to_owned(),
        };
        let of_server = |answer: &CanonicalJsonObject| {
            answer.get("server_name").and_then(|name| name.as_str()) == Some(server.as_str())
        };
        let answer =
            answers.into_iter().find(of_server).ok_or_else(|| bad("it does not know the keys either"))?;
        self.take(server, answer).await
    }

    /// Checks what a server says of its keys, and remembers it.
    async fn take(&self, server: &ServerName, answer: CanonicalJsonObject) -> Result<(), FederationError> {
        let now = self.inner.environment.now();
        let json =
            serde_json::to_string(&answer).map_err(|error| FederationError::Internal(error.to_string()))?;
        let answer = KeyAnswer::verify(server, answer)?;
        let valid_until = answer.valid_until.min(now.after(LONGEST_LIFETIME).millis());
        let name = lower_case(server);
        let mut transaction = Transaction::new();
        for (key_id, key) in answer.current {
            let row = ServerKeyRow { key, valid_until, is_old: false };
            transaction.put(&rows::SERVER_KEYS, (name.as_str(), key_id.as_str()), &row);
        }
        for (key_id, (key, expired)) in answer.old {
            let row = ServerKeyRow { key, valid_until: expired, is_old: true };
            transaction.put(&rows::SERVER_KEYS, (name.as_str(), key_id.as_str()), &row);
        }
        let row = KeyAnswerRow { json, valid_until, fetched_at: now.millis() };
        transaction.put(&rows::KEY_ANSWERS, name.as_str(), &row);
        self.inner.store.commit(transaction).await?;
        self.inner.known.remove(&name);
        Ok(())
    }
}

fn milliseconds(time: Timestamp) -> CanonicalJsonValue {
    CanonicalJsonValue::Integer(ruma::Int::try_from(time.millis()).unwrap_or(ruma::Int::MAX))
}

impl KeyRing for Keys {
    fn keys<'a>(&'a self, wanted: &'a [WantedKeys]) -> BoxFuture<'a, KnownKeys> {
        async move {
            let mut asked = Vec::with_capacity(wanted.len());
            for wanted in wanted {
                asked.push(async move { (wanted.server.clone(), self.keys_of(wanted).await) }.boxed());
            }
            let answers: Vec<(OwnedServerName, BTreeMap<String, KnownKey>)> =
                stream::iter(asked).buffer_unordered(AT_ONCE).collect().await;
            answers.into_iter().collect()
        }
        .boxed()
    }
}

impl Keys {
    async fn keys_of(&self, wanted: &WantedKeys) -> BTreeMap<String, KnownKey> {
        if wanted.server == self.inner.own.server_name() {
            return self.own_keys().await.unwrap_or_default();
        }
        if let Some(pinned) = self.inner.client.policy().signing_keys_of(&wanted.server) {
            // Good for ever: the operator takes back what is not.
            let known = |(key_id, key): (&str, &str)| {
                let key = KnownKey { key: Base64::parse(key).ok()?, good_until: u64::MAX };
                Some((key_id.to_owned(), key))
            };
            return pinned.into_iter().filter_map(known).collect();
        }
        match self.of_server(wanted).await {
            Ok(known) => (*known).clone(),
            Err(error) => {
                tracing::warn!(server = %wanted.server, %error, "the keys of a server cannot be read");
                BTreeMap::new()
            }
        }
    }

    /// This server's keys, with which it checks its own events when others pass them on.
    async fn own_keys(&self) -> Result<BTreeMap<String, KnownKey>, FederationError> {
        let current = self.inner.own.current();
        let mut keys = BTreeMap::new();
        for retired in self.inner.own.retired().await? {
            let key =
                KnownKey { key: Base64::new(retired.public_key), good_until: retired.expired_at.millis() };
            keys.insert(format!("ed25519:{}", retired.version), key);
        }
        let key = KnownKey { key: Base64::new(current.public_key().to_vec()), good_until: u64::MAX };
        keys.insert(format!("ed25519:{}", current.version()), key);
        Ok(keys)
    }
}

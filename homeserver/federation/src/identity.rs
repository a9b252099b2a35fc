//! Identity servers (Identity Service API): who knows which users e-mail addresses and telephone numbers belong to, and keeps invites for
//! those that belong to nobody yet. They learn who invites whom, so that only those are asked which the operator names.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use entente_outbound::{
    AddressPolicy, Client, ClientSettings, GuardedResolver, Request, Route, SystemLookup, public_tls,
};
use http::{HeaderValue, Method, StatusCode, header};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedUserId, UserId,
    serde::{Base64, base64::UrlSafe},
    signatures::{PublicKeyMap, verify_json},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use url::Url;

use crate::FederationError;

/// How long a server may take: somebody waits who invites.
const TIMEOUT: Duration = Duration::from_secs(10);
/// An answer has at most this many bytes.
const MOST_BYTES: usize = 64 * 1024;
const IDLE_CONNECTIONS: usize = 1;
/// A token of a stored invite, which becomes a state key, has at most this many bytes.
const MOST_TOKEN_BYTES: usize = 255;
/// Keys that one proof may name.
const MOST_SIGNATURES: usize = 5;
/// Keys that a server may give for one invite.
const MOST_KEYS: usize = 10;

/// The identity servers that the operator names. Cheap to clone.
#[derive(Clone, Debug)]
pub struct IdentityServers {
    inner: Arc<Vec<IdentityServer>>,
}

#[derive(Debug)]
struct IdentityServer {
    /// What clients call it.
    name: String,
    base: Url,
    client: Client,
}

/// An e-mail address or a telephone number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// `email` or `msisdn`.
    pub medium: String,
    /// Which.
    pub address: String,
}

/// An invite that an identity server keeps until somebody turns out to have the address (Identity Service API, `POST /store-invite`).
#[derive(Clone, Debug)]
pub struct StoredInvite {
    /// By which it is known.
    pub token: String,
    /// What may be shown of the address.
    pub display_name: String,
    /// The content of `m.room.third_party_invite`: how a proof is known to be good.
    pub content: CanonicalJsonObject,
}

#[derive(Deserialize)]
struct HashDetails {
    algorithms: Vec<String>,
    #[serde(default)]
    lookup_pepper: String,
}

#[derive(Deserialize)]
struct Mappings {
    mappings: Map<String, Value>,
}

#[derive(Deserialize)]
struct StoredBody {
    token: String,
    display_name: String,
    #[serde(default)]
    public_keys: Vec<PublicKey>,
}

#[derive(Deserialize)]
struct PublicKey {
    public_key: String,
    key_validity_url: Option<String>,
}

#[derive(Deserialize)]
struct KeyBody {
    public_key: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    errcode: String,
    error: String,
}

impl IdentityServers {
    /// Those of the settings, reached by this route; those with an address of their own directly.
    pub fn new(settings: &[entente_config::IdentityServer], route: &Route) -> Result<Self, FederationError> {
        let mut servers = Vec::with_capacity(settings.len());
        for server in settings {
            servers.push(IdentityServer::new(server, route)?);
        }
        Ok(Self { inner: Arc::new(servers) })
    }

    /// Whether the operator names any.
    pub fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }

    /// Refuses a server that the operator does not name: nothing is sent to it.
    pub fn check(&self, server: &str) -> Result<(), FederationError> {
        self.named(server).map(drop)
    }

    fn named(&self, server: &str) -> Result<&IdentityServer, FederationError> {
        let mut servers = self.inner.iter();
        let named = servers.find(|known| known.name.eq_ignore_ascii_case(server));
        named.ok_or(FederationError::IdentityServerNotTrusted)
    }

    /// Whose an address is (`POST /lookup`). `token`: what a client got from the server for this one.
    pub async fn lookup(
        &self,
        server: &str,
        token: &str,
        address: &Address,
    ) -> Result<Option<OwnedUserId>, FederationError> {
        self.named(server)?.lookup(token, address).await
    }

    /// Has an invite kept (`POST /store-invite`). `more`: what may be told of the room and of who invites.
    pub async fn store_invite(
        &self,
        server: &str,
        token: &str,
        address: &Address,
        more: Map<String, Value>,
    ) -> Result<StoredInvite, FederationError> {
        self.named(server)?.store_invite(token, address, more).await
    }

    /// Whether one of these servers signed an object.
    pub async fn has_signed(&self, object: &CanonicalJsonObject) -> Result<(), FederationError> {
        let unsigned = FederationError::BadEvent("no identity server that this server trusts signed it");
        let signatures = object.get("signatures").and_then(|signatures| signatures.as_object());
        for (name, of_server) in signatures.into_iter().flatten() {
            let (Ok(server), Some(of_server)) = (self.named(name), of_server.as_object()) else { continue };
            for (key_id, signature) in of_server.iter().take(MOST_SIGNATURES) {
                let Some(key) = server.public_key(key_id).await? else { continue };
                let of_key = [(key_id.clone(), key)].into_iter().collect();
                let only = CanonicalJsonObject::from([(key_id.clone(), signature.clone())]);
                let only = CanonicalJsonObject::from([(name.clone(), CanonicalJsonValue::Object(only))]);
                let mut signed = object.clone();
                signed.insert(String::from("signatures"), CanonicalJsonValue::Object(only));
                if verify_json(&PublicKeyMap::from([(name.clone(), of_key)]), &signed).is_ok() {
                    return Ok(());
                }
            }
        }
        Err(unsigned)
    }
}

impl IdentityServer {
    fn new(settings: &entente_config::IdentityServer, route: &Route) -> Result<Self, FederationError> {
        let unusable = |error: &dyn std::fmt::Display| {
            FederationError::Settings(format!("the identity server {}: {error}", settings.name))
        };
        let mut base = match &settings.url {
            Some(url) => url.clone(),
            None => Url::parse(&format!("https://{}/", settings.name)).map_err(|error| unusable(&error))?,
        };
        if !base.path().ends_with('/') {
            let path = format!("{}/", base.path());
            base.set_path(&path);
        }
        // Where it is was said by the operator, or else it is on the public internet.
        let is_placed = settings.url.is_some();
        let addresses = AddressPolicy::public_internet().with_private_addresses(is_placed);
        let requests = ClientSettings {
            user_agent: format!("Entente/{}", env!("CARGO_PKG_VERSION")),
            connect_timeout: TIMEOUT,
            request_timeout: TIMEOUT,
            idle_connections: IDLE_CONNECTIONS,
            route: if is_placed { Route::direct() } else { route.clone() },
        };
        let resolver = GuardedResolver::new(Arc::new(addresses), Arc::new(SystemLookup));
        let client = public_tls(b"").and_then(|tls| Client::new(&requests, resolver, tls));
        let client = client.map_err(|error| unusable(&error))?;
        Ok(Self { name: settings.name.to_string(), base, client })
    }

    async fn lookup(&self, token: &str, address: &Address) -> Result<Option<OwnedUserId>, FederationError> {
        let details: HashDetails = self.ask(Method::GET, "hash_details", Some(token), None).await?;
        let pepper = details.lookup_pepper;
        let knows = |algorithm: &str| details.algorithms.iter().any(|known| known == algorithm);
        let Address { medium, address } = address;
        let (algorithm, looked_up) = if knows("sha256") {
            let digest = Sha256::digest(format!("{address} {medium} {pepper}"));
            ("sha256", Base64::<UrlSafe, _>::new(digest.to_vec()).encode())
        } else if knows("none") {
            ("none", format!("{address} {medium}"))
        } else {
            return Err(self.bad_answer("it knows no algorithm that this server knows"));
        };
        let body = json!({ "algorithm": algorithm, "pepper": pepper, "addresses": [looked_up] });
        let Mappings { mappings } = self.ask(Method::POST, "lookup", Some(token), Some(&body)).await?;
        match mappings.get(&looked_up).map(Value::as_str) {
            None => Ok(None),
            Some(user_id) => {
                let user_id = user_id.and_then(|user_id| UserId::parse(user_id).ok());
                user_id.map(Some).ok_or_else(|| self.bad_answer("the address belongs to what is no user"))
            }
        }
    }

    async fn store_invite(
        &self,
        token: &str,
        address: &Address,
        mut more: Map<String, Value>,
    ) -> Result<StoredInvite, FederationError> {
        more.insert(String::from("medium"), json!(address.medium));
        more.insert(String::from("address"), json!(address.address));
        let body = Value::Object(more);
        let StoredBody { token, display_name, mut public_keys } =
            self.ask(Method::POST, "store-invite", Some(token), Some(&body)).await?;
        public_keys.truncate(MOST_KEYS);
        if token.len() > MOST_TOKEN_BYTES || public_keys.is_empty() {
            return Err(self.bad_answer("the invite has no key, or too long a token"));
        }
        let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
        let validity = self.base.join("_matrix/identity/v2/pubkey/isvalid");
        let validity = validity.map(String::from).unwrap_or_default();
        let key = |key: &PublicKey| {
            let validity = key.key_validity_url.as_deref().unwrap_or(&validity);
            CanonicalJsonObject::from([
                (String::from("public_key"), text(&key.public_key)),
                (String::from("key_validity_url"), text(validity)),
            ])
        };
        // The first stands by itself too, as it did before there could be several.
        let mut content = public_keys.first().map(key).unwrap_or_default();
        let keys = public_keys.iter().map(key).map(CanonicalJsonValue::Object).collect();
        content.insert(String::from("public_keys"), CanonicalJsonValue::Array(keys));
        content.insert(String::from("display_name"), text(&display_name));
        Ok(StoredInvite { token, display_name, content })
    }

    /// One of its keys; `None`: it knows no such key.
    async fn public_key(&self, key_id: &str) -> Result<Option<Base64>, FederationError> {
        let mut url = self.url("pubkey")?;
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.push(key_id);
        }
        match self.exchange(Request::new(Method::GET, url, MOST_BYTES)).await {
            Ok(body) => {
                let key: KeyBody = self.read(&body)?;
                let key = Base64::parse(key.public_key).map_err(|_| self.bad_answer("a key is no base64"))?;
                Ok(Some(key))
            }
            Err(FederationError::IdentityServer { status: Some(404), .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn url(&self, path: &str) -> Result<Url, FederationError> {
        let url = self.base.join(&format!("_matrix/identity/v2/{path}"));
        url.map_err(|error| FederationError::Internal(format!("the URL of an identity server: {error}")))
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> Result<T, FederationError> {
        let mut request = Request::new(method, self.url(path)?, MOST_BYTES);
        if let Some(body) = body {
            let json =
                serde_json::to_vec(body).map_err(|error| FederationError::Internal(error.to_string()))?;
            request = request.with_json(json.into());
        }
        if let Some(token) = token {
            let bad = |_| FederationError::BadEvent("the token for the identity server is none");
            let mut token = HeaderValue::try_from(format!("Bearer {token}")).map_err(bad)?;
            token.set_sensitive(true);
            request.headers.insert(header::AUTHORIZATION, token);
        }
        self.read(&self.exchange(request).await?)
    }

    async fn exchange(&self, request: Request) -> Result<Bytes, FederationError> {
        let failed = |status, reason: String| {
            let server = self.name.clone();
            Err(FederationError::IdentityServer { server, status, reason })
        };
        let answer = match self.client.ask(request).await {
            Ok(answer) => answer,
            Err(error) => return failed(None, error.to_string()),
        };
        if answer.status == StatusCode::OK && !answer.is_cut_short {
            return Ok(answer.body);
        }
        let Refusal { errcode, error } = serde_json::from_slice(&answer.body).unwrap_or_default();
        let said: String = format!("{} {errcode} {error}", answer.status).chars().take(300).collect();
        failed(Some(answer.status.as_u16()), said)
    }

    fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, FederationError> {
        serde_json::from_slice(body).map_err(|error| self.bad_answer(&error.to_string()))
    }

    fn bad_answer(&self, reason: &str) -> FederationError {
        let (server, reason) = (self.name.clone(), format!("it did not answer as it should: {reason}"));
        FederationError::IdentityServer { server, status: None, reason }
    }
}

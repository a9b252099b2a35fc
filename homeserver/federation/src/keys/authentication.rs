//! Whether a request comes from the server that it says it comes from (S-S API, "Request Authentication").

use http::Method;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName,
    signatures::{PublicKeyMap, verify_json},
};

use super::Keys;
use crate::{
    FederationError, KeyRing, WantedKeys, json,
    x_matrix::{XMatrix, signed_object},
};

/// A request of which it is known who makes it.
#[derive(Clone, Debug)]
pub struct Authenticated {
    /// Who.
    pub origin: OwnedServerName,
    /// The body, as it was signed.
    pub body: Option<CanonicalJsonValue>,
}

impl Keys {
    /// Checks the `Authorization` header of a request. `target` is the path with the query as they came, and an empty body is none.
    /// A server that is not spoken to causes no packet.
    pub async fn authenticate(
        &self,
        method: &Method,
        target: &str,
        header: &str,
        body: &[u8],
    ) -> Result<Authenticated, FederationError> {
        let proof = XMatrix::parse(header)?;
        let policy = self.inner.client.policy();
        if let Some(destination) = &proof.destination
            && !policy.is_own(destination)
        {
            return Err(FederationError::Unauthenticated(format!("the request is for {destination}")));
        }
        policy.check_inbound(&proof.origin)?;
        let body = if body.is_empty() {
            None
        } else {
            Some(json::value(body).map_err(|error| FederationError::NotJson(error.to_string()))?)
        };
        let wanted = WantedKeys {
            server: proof.origin.clone(),
            key_ids: vec![proof.key.clone()],
            good_until: self.inner.environment.now().millis(),
        };
        let known = self.keys(std::slice::from_ref(&wanted)).await;
        let key = known.get(&proof.origin).and_then(|keys| keys.get(&proof.key));
        let key = key.filter(|key| key.good_until >= wanted.good_until).ok_or_else(|| {
            FederationError::Unauthenticated(format!("{} has no valid key {}", proof.origin, proof.key))
        })?;
        // Older servers sign for whatever name they know this one by.
        let destination = proof.destination.as_deref().unwrap_or(policy.own_name());
        let mut signed = signed_object(method, target, &proof.origin, destination, body.clone());
        if proof.destination.is_none() {
            signed.remove("destination");
        }
        let signature = CanonicalJsonValue::String(proof.signature.clone());
        let of_origin = CanonicalJsonObject::from([(proof.key.clone(), signature)]);
        let all =
            CanonicalJsonObject::from([(proof.origin.to_string(), CanonicalJsonValue::Object(of_origin))]);
        signed.insert(String::from("signatures"), CanonicalJsonValue::Object(all));
        let of_origin = [(proof.key.clone(), key.key.clone())].into_iter().collect();
        let keys = PublicKeyMap::from([(proof.origin.to_string(), of_origin)]);
        verify_json(&keys, &signed).map_err(|error| {
            FederationError::Unauthenticated(format!("the request is not signed well: {error}"))
        })?;
        self.inner.client.destinations().heard_from(&proof.origin).await;
        Ok(Authenticated { origin: proof.origin, body })
    }
}

//! Whether a request comes from the server that it says it comes from (S-S API, "Request Authentication").

use http::Method;
use ruma::{
    CanonicalJsonValue, OwnedServerName, ServerName, SigningKeyAlgorithm,
    serde::Base64,
    signatures::{to_canonical_json_string_for_signing, verify_canonical_json_bytes},
};

use super::Keys;
use crate::{
    FederationError, KeyRing, WantedKeys, json,
    x_matrix::{XMatrix, signed_object},
};

/// Who a request says that it comes from, and the key by which that can be told.
#[derive(Clone, Debug)]
pub struct Claim {
    proof: XMatrix,
    key: Base64,
}

impl Claim {
    /// Who.
    pub fn origin(&self) -> &ServerName {
        &self.proof.origin
    }
}

/// A request of which it is known who makes it.
#[derive(Clone, Debug)]
pub struct Authenticated {
    /// Who.
    pub origin: OwnedServerName,
    /// The body, as it was signed. Messages of a transaction that are not canonical JSON are not in it.
    pub body: Option<CanonicalJsonValue>,
}

impl Keys {
    /// Reads the `Authorization` header of a request, before anything of its body is read. A server that is not spoken to causes no
    /// packet.
    pub async fn claimed(&self, header: &str) -> Result<Claim, FederationError> {
        let proof = XMatrix::parse(header)?;
        let policy = self.inner.client.policy();
        if let Some(destination) = &proof.destination
            && !policy.is_own(destination)
        {
            return Err(FederationError::Unauthenticated(format!("the request is for {destination}")));
        }
        policy.check_inbound(&proof.origin)?;
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
        let key = key.key.clone();
        Ok(Claim { proof, key })
    }

    /// Checks the signature of a request. `target` is the path with the query as they came, and an empty body is none.
    pub async fn authenticate(
        &self,
        claim: Claim,
        method: &Method,
        target: &str,
        body: &[u8],
    ) -> Result<Authenticated, FederationError> {
        let Claim { proof, key } = claim;
        let body = if body.is_empty() {
            None
        } else {
            Some(json::signed(body).map_err(|error| FederationError::NotJson(error.to_string()))?)
        };
        let (value, text, left_out) = match body {
            Some(body) => (Some(body.value), body.text, body.left_out),
            None => (None, None, 0),
        };
        // Older servers sign for whatever name they know this one by.
        let destination = proof.destination.as_deref().unwrap_or(self.inner.client.policy().own_name());
        let mut signed = signed_object(method, target, &proof.origin, destination, value);
        if proof.destination.is_none() {
            signed.remove("destination");
        }
        let internal =
            |error: &dyn std::fmt::Display| FederationError::Internal(format!("a request: {error}"));
        let (body, signed) = match text {
            None => {
                let text = to_canonical_json_string_for_signing(&signed).map_err(|error| internal(&error))?;
                (signed.remove("content"), text)
            }
            Some(content) => {
                let body = signed.remove("content");
                let rest = to_canonical_json_string_for_signing(&signed).map_err(|error| internal(&error))?;
                // By the alphabet it is the first of them.
                (body, rest.replacen('{', &format!("{{\"content\":{content},"), 1))
            }
        };
        let not_signed = |error: &dyn std::fmt::Display| {
            FederationError::Unauthenticated(format!("the request is not signed well: {error}"))
        };
        let signature: Base64 = Base64::parse(&proof.signature).map_err(|error| not_signed(&error))?;
        verify_canonical_json_bytes(
            &SigningKeyAlgorithm::Ed25519,
            key.as_bytes(),
            signature.as_bytes(),
            signed.as_bytes(),
        )
        .map_err(|error| not_signed(&error))?;
        if left_out > 0 {
            tracing::info!(origin = %proof.origin, left_out, "messages of another server that are not canonical JSON are left out");
        }
        self.inner.client.destinations().heard_from(&proof.origin).await;
        Ok(Authenticated { origin: proof.origin, body })
    }
}

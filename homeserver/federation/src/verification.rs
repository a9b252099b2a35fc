//! Events as they come in, made into events whose signatures are known to be good.

use std::{collections::BTreeMap, sync::Arc};

use entente_rooms::{Pdu, RoomError, VerifiedPdu};
use ruma::{
    CanonicalJsonObject, OwnedServerName, room_version_rules::RoomVersionRules, signatures::PublicKeyMap,
};

use crate::{
    FederationError, KeyRing, WantedKeys,
    peers::{KnownKey, KnownKeys},
};

/// Events that one thread checks in one go: some 10 ms.
const AT_ONCE: usize = 100;

/// Checks the form and the signatures of events of one room, in their order. Why one is refused stands in its place.
pub(crate) async fn verify(
    keys: &dyn KeyRing,
    rules: &RoomVersionRules,
    events: Vec<CanonicalJsonObject>,
) -> Result<Vec<Result<VerifiedPdu, RoomError>>, FederationError> {
    let pdus: Vec<Result<Pdu, RoomError>> = events.into_iter().map(|event| Pdu::new(event, rules)).collect();
    let known = Arc::new(keys.keys(&wanted_keys(&pdus, rules)).await);
    let rules = Arc::new(rules.clone());
    let mut pdus = pdus.into_iter();
    let mut threads = Vec::new();
    loop {
        let some: Vec<Result<Pdu, RoomError>> = pdus.by_ref().take(AT_ONCE).collect();
        if some.is_empty() {
            break;
        }
        let (known, rules) = (Arc::clone(&known), Arc::clone(&rules));
        threads.push(tokio::task::spawn_blocking(move || -> Vec<Result<VerifiedPdu, RoomError>> {
            some.into_iter().map(|pdu| verify_one(pdu?, &known, &rules)).collect()
        }));
    }
    let mut verified = Vec::new();
    for thread in threads {
        verified.extend(thread.await.map_err(|error| FederationError::Internal(error.to_string()))?);
    }
    Ok(verified)
}

/// The same, where those that are refused are left out with a line in the log.
pub(crate) async fn verify_good(
    keys: &dyn KeyRing,
    rules: &RoomVersionRules,
    events: Vec<CanonicalJsonObject>,
) -> Result<Vec<VerifiedPdu>, FederationError> {
    let mut good = Vec::with_capacity(events.len());
    for verified in verify(keys, rules, events).await? {
        match verified {
            Ok(pdu) => good.push(pdu),
            Err(error) => tracing::info!(%error, "an event from another server is left out"),
        }
    }
    Ok(good)
}

/// The keys that the signatures of events were made with.
fn wanted_keys(pdus: &[Result<Pdu, RoomError>], rules: &RoomVersionRules) -> Vec<WantedKeys> {
    let mut wanted: BTreeMap<OwnedServerName, WantedKeys> = BTreeMap::new();
    for pdu in pdus.iter().flatten() {
        let at = if rules.enforce_key_validity { pdu.origin_server_ts() } else { 0 };
        for (server, key_ids) in pdu.required_signatures(rules).unwrap_or_default() {
            let of_server = wanted.entry(server.clone()).or_insert_with(|| WantedKeys {
                server,
                key_ids: Vec::new(),
                good_until: 0,
            });
            of_server.good_until = of_server.good_until.max(at);
            for key_id in key_ids {
                if !of_server.key_ids.contains(&key_id) {
                    of_server.key_ids.push(key_id);
                }
            }
        }
    }
    wanted.into_values().collect()
}

fn verify_one(pdu: Pdu, known: &KnownKeys, rules: &RoomVersionRules) -> Result<VerifiedPdu, RoomError> {
    let at = if rules.enforce_key_validity { pdu.origin_server_ts() } else { 0 };
    let mut keys = PublicKeyMap::new();
    for (server, _) in pdu.required_signatures(rules)? {
        let is_good = |(_, key): &(&String, &KnownKey)| key.good_until >= at;
        let of_server = known.get(&server).into_iter().flatten().filter(is_good);
        let of_server = of_server.map(|(key_id, known)| (key_id.clone(), known.key.clone()));
        keys.insert(server.to_string(), of_server.collect());
    }
    pdu.verify(&keys, rules)
}

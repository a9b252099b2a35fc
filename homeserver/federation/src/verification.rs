//! Events as they come in, made into events whose signatures are known to be good.

use std::{collections::BTreeMap, num::NonZero, sync::Arc};

use entente_rooms::{Pdu, RoomError, VerifiedPdu};
use futures_util::{StreamExt, stream};
use ruma::{
    CanonicalJsonObject, OwnedServerName, room_version_rules::RoomVersionRules, signatures::PublicKeyMap,
};

use crate::{
    FederationError, KeyRing, WantedKeys,
    peers::{KnownKey, KnownKeys},
};

/// Events that one thread checks in one go, some milliseconds: what one transaction can have keeps two threads busy.
const AT_ONCE: usize = 25;
/// So few are checked where they come, in some 0.2 ms: handing them to another thread and back would cost as much.
const FEW: usize = 3;

/// Checks the form and the signatures of events of one room, in their order. Why one is refused stands in its place.
pub(crate) async fn verify(
    keys: &dyn KeyRing,
    rules: &RoomVersionRules,
    events: Vec<CanonicalJsonObject>,
) -> Result<Vec<Result<VerifiedPdu, RoomError>>, FederationError> {
    let shared = Arc::new(rules.clone());
    let of_threads = Arc::clone(&shared);
    let pdus = in_threads(events, move |event| Pdu::new(event, &of_threads)).await?;
    let known = keys.keys(&wanted_keys(&pdus, rules)).await;
    in_threads(pdus, move |pdu| verify_one(pdu?, &known, &shared)).await
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

/// Does something with each of many, on threads that may compute for long: no more of them than there are processors. What comes of them
/// is in their order.
async fn in_threads<T: Send + 'static, U: Send + 'static>(
    all: Vec<T>,
    work: impl Fn(T) -> U + Send + Sync + 'static,
) -> Result<Vec<U>, FederationError> {
    if all.len() <= FEW {
        return Ok(all.into_iter().map(work).collect());
    }
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let (work, mut done) = (Arc::new(work), Vec::with_capacity(all.len()));
    let mut all = all.into_iter();
    let parts = std::iter::from_fn(move || {
        let part: Vec<T> = all.by_ref().take(AT_ONCE).collect();
        (!part.is_empty()).then_some(part)
    });
    let threads = parts.map(move |part| {
        let work = Arc::clone(&work);
        tokio::task::spawn_blocking(move || part.into_iter().map(|one| work(one)).collect::<Vec<U>>())
    });
    let mut threads = stream::iter(threads).buffered(processors);
    while let Some(part) = threads.next().await {
        done.extend(part.map_err(|error| FederationError::Internal(error.to_string()))?);
    }
    Ok(done)
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

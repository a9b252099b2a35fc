//! Policy servers: who is asked before an event becomes part of a room that has one (S-S API, "Policy Servers"; MSC4284).

use std::{collections::HashMap, fmt::Debug, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedRoomId, RoomId, ServerName,
    SigningKeyAlgorithm,
    events::room::policy::{POLICY_SERVER_ED25519_SIGNING_KEY_ID, RoomPolicyEventContent},
    room_version_rules::RoomVersionRules,
    signatures::verify_policy_server_signature,
};

use crate::{Draft, RoomError, Rooms, incoming::VerifiedPdu};

/// An event that a policy server signed has at most this many bytes, like every other (S-S API, "PDUs").
const MOST_BYTES: usize = 65_535;

/// Asks policy servers.
pub trait PolicyServers: Debug + Send + Sync + 'static {
    /// `POST /_matrix/policy/v1/sign`: the signatures that `server` gives to an event, by server and key id. Nothing in the answer
    /// was checked.
    fn sign<'a>(
        &'a self,
        server: &'a ServerName,
        event: &'a CanonicalJsonObject,
    ) -> BoxFuture<'a, Result<CanonicalJsonObject, PolicyRefusal>>;
}

/// Why a policy server did not sign. It is what the user hears whose event it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRefusal {
    /// The status of its answer, or 502 or 504 if there was none.
    pub status: u16,
    /// The error code of its answer.
    pub errcode: String,
    /// What it says.
    pub message: String,
    /// When it wants to be asked again.
    pub retry_after: Option<Duration>,
}

impl PolicyRefusal {
    fn without_answer(message: &str) -> Self {
        let (errcode, message) = (String::from("M_UNKNOWN"), message.to_owned());
        Self { status: 502, errcode, message, retry_after: None }
    }
}

/// An event for which a policy server has to be asked, which nobody does while the room waits.
#[derive(Debug)]
pub struct PolicyInquiry {
    pub(crate) policy: RoomPolicyEventContent,
    pub(crate) rules: RoomVersionRules,
    pub(crate) room_id: OwnedRoomId,
    pub(crate) event_id: OwnedEventId,
    pub(crate) event: CanonicalJsonObject,
    /// What the event was made of, and the how manieth of its transaction it is, if it was made here.
    pub(crate) own: Option<(usize, Draft)>,
}

/// What policy servers said while a change waited to be made.
#[derive(Clone, Debug, Default)]
pub(crate) struct PolicyAnswers {
    /// Events of other servers: with the signature, or `None` if it was refused.
    pub(crate) received: HashMap<OwnedEventId, Option<CanonicalJsonObject>>,
    /// Events that were made here, in their order.
    pub(crate) own: Vec<SignedDraft>,
}

/// An event that was made here and that the policy server signed.
#[derive(Clone, Debug)]
pub(crate) struct SignedDraft {
    pub(crate) draft: Draft,
    pub(crate) event_id: OwnedEventId,
    pub(crate) event: CanonicalJsonObject,
}

impl SignedDraft {
    /// Whether it is the event that a draft would become.
    pub(crate) fn is_of(&self, draft: &Draft) -> bool {
        self.draft.sender == draft.sender
            && self.draft.event_type == draft.event_type
            && self.draft.state_key == draft.state_key
            && self.draft.content == draft.content
            && self.draft.redacts == draft.redacts
            && self.draft.sticky == draft.sticky
    }
}

impl Rooms {
    /// Asks policy servers through this, from now on. Without it, rooms that have one take no events.
    pub fn ask_policy_servers_through(&self, policy_servers: Arc<dyn PolicyServers>) {
        if self.inner.policy_servers.set(policy_servers).is_err() {
            tracing::error!("policy servers are asked through what was named first");
        }
    }

    /// Asks for a signature. An event that was made here is not sent without one; one of another server is soft-failed.
    pub(crate) async fn ask_policy_server(
        &self,
        inquiry: PolicyInquiry,
        answers: &mut PolicyAnswers,
    ) -> Result<(), RoomError> {
        let server = &inquiry.policy.via;
        let signed = if *server == *self.server_name() {
            self.own_policy_signature(&inquiry)
        } else if let Some(policy_servers) = self.inner.policy_servers.get() {
            policy_servers.sign(server, &inquiry.event).await
        } else {
            Err(PolicyRefusal::without_answer("this server asks no policy servers"))
        };
        let signed = signed.and_then(|signatures| with_signature(&inquiry, &signatures));
        if let Err(refusal) = &signed {
            let PolicyInquiry { room_id, event_id, .. } = &inquiry;
            tracing::info!(
                %server, %room_id, %event_id, status = refusal.status, errcode = refusal.errcode,
                "a policy server does not sign an event"
            );
        }
        match inquiry.own {
            Some((index, draft)) => {
                let event = signed.map_err(RoomError::PolicyRefused)?;
                // What was made behind it was built upon another.
                answers.own.truncate(index);
                answers.own.push(SignedDraft { draft, event_id: inquiry.event_id, event });
            }
            None => {
                answers.received.insert(inquiry.event_id, signed.ok());
            }
        }
        Ok(())
    }
}

impl Rooms {
    /// What this server says as a room's policy server of an event that the room's rules allow: it has no rules of its own.
    fn own_policy_signature(&self, inquiry: &PolicyInquiry) -> Result<CanonicalJsonObject, PolicyRefusal> {
        if !self.has_policy_key(&inquiry.policy) {
            let message = "the room names this server as its policy server, with a key that it does not have";
            return Err(PolicyRefusal::without_answer(message));
        }
        let signed = self.policy_signature(&inquiry.event, &inquiry.rules);
        signed.map_err(|error| PolicyRefusal::without_answer(&error.to_string()))
    }

    fn has_policy_key(&self, policy: &RoomPolicyEventContent) -> bool {
        let (_, own) = self.public_key();
        let named = policy.public_keys.get(&SigningKeyAlgorithm::Ed25519);
        named.is_some_and(|named| named.as_bytes() == own.as_bytes())
    }

    /// This server's signature on an event, as that of a policy server: by server and key id.
    fn policy_signature(
        &self,
        event: &CanonicalJsonObject,
        rules: &RoomVersionRules,
    ) -> Result<CanonicalJsonObject, RoomError> {
        let mut signed = event.clone();
        signed.remove("signatures");
        self.cosign(&mut signed, rules)?;
        let (key_id, own) = (self.public_key().0, self.server_name().as_str());
        let signature = signed.get("signatures").and_then(|all| all.as_object());
        let signature = signature.and_then(|all| all.get(own)).and_then(|of_own| of_own.as_object());
        let signature = signature.and_then(|of_own| of_own.get(&key_id)).cloned();
        let signature = signature
            .ok_or_else(|| RoomError::Internal(String::from("the signing key changed meanwhile")))?;
        let of_own =
            CanonicalJsonObject::from([(POLICY_SERVER_ED25519_SIGNING_KEY_ID.to_owned(), signature)]);
        Ok(CanonicalJsonObject::from([(own.to_owned(), CanonicalJsonValue::Object(of_own))]))
    }

    /// Signs an event of another server as the policy server of its room, if the room's present state allows it (S-S API, "Asking for a
    /// Policy Server signature on an event"). It does so for rooms that a user of this server put under it: nobody else can have it work
    /// for them.
    pub async fn sign_as_policy_server(
        &self,
        room_id: &RoomId,
        pdu: &VerifiedPdu,
    ) -> Result<CanonicalJsonObject, RoomError> {
        let view = self.view(room_id).await?;
        let named = view.state_event(view.current_state().await?, "m.room.policy", "").await?;
        let named = named.filter(|named| self.local(named.sender.as_str()).is_some());
        let policy = named.and_then(|named| named.content_as::<RoomPolicyEventContent>());
        let is_own =
            policy.is_some_and(|policy| policy.via == self.server_name() && self.has_policy_key(&policy));
        if !is_own {
            return Err(RoomError::Forbidden("this server is not the policy server of that room"));
        }
        self.change_stored_room(room_id, async |mut composer| {
            composer.require_allowed_now(pdu).await?;
            Ok((composer, ()))
        })
        .await?;
        let event = serde_json::from_slice(&pdu.json)
            .map_err(|error| RoomError::Internal(format!("an event that was checked: {error}")))?;
        self.policy_signature(&event, &view.room.rules)
    }
}

/// An event with the signature of the policy server, if that is good. Those that it has already stay: the policy server may be the
/// one whose user sent it.
fn with_signature(
    inquiry: &PolicyInquiry,
    signatures: &CanonicalJsonObject,
) -> Result<CanonicalJsonObject, PolicyRefusal> {
    let server = inquiry.policy.via.as_str();
    let of_server = signatures.get(server).and_then(|of_server| of_server.as_object());
    let signature = of_server.and_then(|of_server| of_server.get(POLICY_SERVER_ED25519_SIGNING_KEY_ID));
    let signature = signature.and_then(|signature| signature.as_str());
    let unsigned =
        || PolicyRefusal::without_answer("the policy server of this room gives no valid signature");
    let signature = CanonicalJsonValue::String(signature.ok_or_else(unsigned)?.to_owned());
    let mut event = inquiry.event.clone();
    let empty = || CanonicalJsonValue::Object(CanonicalJsonObject::new());
    let all = event.entry(String::from("signatures")).or_insert_with(empty);
    let CanonicalJsonValue::Object(all) = all else { return Err(unsigned()) };
    let CanonicalJsonValue::Object(of_server) = all.entry(server.to_owned()).or_insert_with(empty) else {
        return Err(unsigned());
    };
    of_server.insert(POLICY_SERVER_ED25519_SIGNING_KEY_ID.to_owned(), signature);
    let is_too_large = serde_json::to_vec(&event).is_ok_and(|json| json.len() > MOST_BYTES);
    if is_too_large || verify_policy_server_signature(&inquiry.policy, &event, &inquiry.rules).is_err() {
        return Err(unsigned());
    }
    Ok(event)
}

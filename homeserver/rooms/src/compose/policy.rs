//! What a room's policy server has to say about an event (S-S API, "Policy Servers"). It is asked while nobody waits for the room:
//! a composer that needs its signature gives up with [`RoomError::AwaitsPolicy`], and another one begins with the answer.

use std::sync::Arc;

use entente_storage::Bytes;
use ruma::{
    CanonicalJsonObject, OwnedEventId, events::StateEventType, events::TimelineEventType,
    events::room::policy::RoomPolicyEventContent, signatures::verify_policy_server_signature,
};

use super::{Composer, Draft, receive::Verdict};
use crate::{
    Event, RoomError,
    incoming::{Pdu, VerifiedPdu},
    policy_server::{PolicyInquiry, SignedDraft},
    rows::{SentAs, StoredEvent},
};

impl Composer {
    /// The policy server that the room uses at present: it is named, with its key, and has a user in the room.
    async fn policy_server(&mut self) -> Result<Option<RoomPolicyEventContent>, RoomError> {
        if self.base.is_none() {
            // Nobody of another server is in a new room.
            return Ok(None);
        }
        let named = self.current(&StateEventType::RoomPolicy, "").await?;
        let Some(policy) = named.and_then(|named| named.content_as::<RoomPolicyEventContent>()) else {
            return Ok(None);
        };
        let has_key = policy.public_keys.contains_key(&ruma::SigningKeyAlgorithm::Ed25519);
        let is_in_room = if policy.via == self.view.server_name() {
            self.head.row.joined > self.head.row.joined_elsewhere
        } else {
            self.has_server(&policy.via).await?
        };
        Ok(Some(policy).filter(|_| has_key && is_in_room))
    }

    /// The policy server that has to sign what a draft becomes. The event that names the policy server is never its to sign, so
    /// that a room can always be rid of it.
    pub(super) async fn policy_server_for(
        &mut self,
        draft: &Draft,
    ) -> Result<Option<RoomPolicyEventContent>, RoomError> {
        let names_it =
            draft.event_type == TimelineEventType::RoomPolicy && draft.state_key.as_deref() == Some("");
        if names_it { Ok(None) } else { self.policy_server().await }
    }

    /// Adds an event that the policy server signed, where it was built. If that has not been asked, it has to be.
    pub(super) async fn append_signed(
        &mut self,
        draft: Draft,
        policy: RoomPolicyEventContent,
    ) -> Result<Arc<Event>, RoomError> {
        match self.signed_draft(&draft).await? {
            Some((event, _)) => self.add_signed(draft, event).await,
            None => Err(self.inquiry(draft, policy).await?),
        }
    }

    /// The event that a draft becomes with the signature of the policy server: canonical JSON, and its id.
    pub(super) async fn prepare_signed(
        &mut self,
        draft: Draft,
        policy: RoomPolicyEventContent,
    ) -> Result<(Bytes, OwnedEventId), RoomError> {
        match self.signed_draft(&draft).await? {
            Some((event, event_id)) => Ok((json_of(&event)?, event_id)),
            None => Err(self.inquiry(draft, policy).await?),
        }
    }

    /// What the policy server signed for a draft, if the events before it are part of the room still.
    async fn signed_draft(
        &mut self,
        draft: &Draft,
    ) -> Result<Option<(CanonicalJsonObject, OwnedEventId)>, RoomError> {
        let Some(SignedDraft { event, event_id, .. }) =
            self.answers.own.get(self.own_events).filter(|signed| signed.is_of(draft))
        else {
            return Ok(None);
        };
        let (event, event_id) = (event.clone(), event_id.clone());
        let pdu = Pdu::new(event.clone(), &self.view.room.rules)?.own()?;
        let (_, missing) = self.find_all(&pdu.prev_events).await?;
        if !missing.is_empty() {
            return Ok(None);
        }
        self.own_events += 1;
        Ok(Some((event, event_id)))
    }

    async fn inquiry(
        &mut self,
        draft: Draft,
        policy: RoomPolicyEventContent,
    ) -> Result<RoomError, RoomError> {
        let (_, json, event_id) = self.rehearse(&draft).await?;
        let own = Some((self.own_events, draft));
        Ok(self.awaits(policy, event_id, parsed(&json)?, own))
    }

    fn awaits(
        &self,
        policy: RoomPolicyEventContent,
        event_id: OwnedEventId,
        event: CanonicalJsonObject,
        own: Option<(usize, Draft)>,
    ) -> RoomError {
        let rules = self.view.room.rules.clone();
        let room_id = self.view.room.room_id.clone();
        RoomError::AwaitsPolicy(Box::new(PolicyInquiry { policy, rules, room_id, event_id, event, own }))
    }

    /// Adds an own event behind those that it was built upon, which need not be the newest any more.
    async fn add_signed(
        &mut self,
        draft: Draft,
        event: CanonicalJsonObject,
    ) -> Result<Arc<Event>, RoomError> {
        let pdu = Pdu::new(event, &self.view.room.rules)?.own()?;
        let (auth_events, missing) = self.find_all(&pdu.auth_events).await?;
        if !missing.is_empty() {
            return Err(RoomError::Internal(String::from("an own event names events that are not known")));
        }
        let (prev_events, _) = self.find_all(&pdu.prev_events).await?;
        let states: Vec<_> = prev_events.iter().map(|event| event.state_after()).collect();
        let state_before = self.resolve(&states).await?;
        let (event, mut stored) = self.unplaced(&pdu, self.head.row.next_event, None, state_before)?;
        stored.header.transaction = draft
            .device
            .map(|device| SentAs { device_id: device.device_id, transaction_id: device.transaction_id });
        stored.header.delay_id = draft.delay_id;
        match self.judge(&event, &auth_events, state_before).await? {
            Verdict::Accepted => {}
            Verdict::SoftFailed => {
                return Err(RoomError::Unauthorized(String::from("the room does not allow it any more")));
            }
            Verdict::Rejected(reason) => return Err(RoomError::Unauthorized(reason)),
        }
        let number = event.number;
        self.place(event, stored, Verdict::Accepted, &auth_events).await?;
        self.required_event(number).await
    }

    /// Refuses an event that the room's present state does not allow.
    pub(crate) async fn require_allowed_now(&mut self, pdu: &VerifiedPdu) -> Result<(), RoomError> {
        let state = self.head.state();
        let (event, _) = self.unplaced(pdu, self.head.row.next_event, None, state)?;
        let rules = self.view.room.rules.authorization.clone();
        self.authorisation_of(&event, state).await?.check(&rules, &event)
    }

    /// What becomes of an event of another server by the room's policy server. Its signature is kept with the event, for whoever gets
    /// that from here.
    pub(super) async fn heed_policy(
        &mut self,
        event: &Event,
        stored: &mut StoredEvent,
        verdict: Verdict,
    ) -> Result<Verdict, RoomError> {
        if !matches!(verdict, Verdict::Accepted) {
            return Ok(verdict);
        }
        let Some(policy) = self.policy_server().await? else { return Ok(verdict) };
        let object = parsed(&stored.json)?;
        if verify_policy_server_signature(&policy, &object, &self.view.room.rules).is_ok() {
            return Ok(verdict);
        }
        match self.answers.received.get(&event.event_id) {
            Some(Some(signed)) => {
                stored.json = json_of(signed)?;
                Ok(verdict)
            }
            Some(None) => Ok(Verdict::SoftFailed),
            None => Err(self.awaits(policy, event.event_id.clone(), object, None)),
        }
    }

    /// Whether the room's policy server signed an event, if it has one.
    pub(super) async fn has_policy_signature(&mut self, event: &Event) -> Result<bool, RoomError> {
        let Some(policy) = self.policy_server().await? else { return Ok(true) };
        let object = parsed(event.json())?;
        Ok(verify_policy_server_signature(&policy, &object, &self.view.room.rules).is_ok())
    }
}

fn json_of(event: &CanonicalJsonObject) -> Result<Bytes, RoomError> {
    let json = serde_json::to_vec(event).map_err(|error| RoomError::BadEvent(error.to_string()))?;
    Ok(json.into())
}

fn parsed(json: &[u8]) -> Result<CanonicalJsonObject, RoomError> {
    serde_json::from_slice(json).map_err(|error| RoomError::BadEvent(error.to_string()))
}

use std::{future::Future, sync::Arc, task::Poll, time::Duration};

use entente_storage::Transaction;
use ruma::{EventId, OwnedEventId, RoomId, UserId, events::TimelineEventType};

use crate::{
    Draft, Room, RoomError, RoomView, Rooms, SendingDevice,
    compose::{Composed, Composer, needs_hashes},
    policy_server::PolicyAnswers,
    room::Head,
    rows,
    server_acl::check_list,
};

/// A room that changes under every attempt is given up after so many.
const MOST_ATTEMPTS: u32 = 64;
/// Transaction ids are remembered for so long, in ms: over a weekend without a network.
const REMEMBERED_FOR: u64 = 3 * 24 * 60 * 60 * 1_000;
/// Rows that are looked at at once.
const PAGE: usize = 1_000;
/// So often a policy server is asked about what one change adds to a room.
const MOST_INQUIRIES: u32 = 16;
/// For so long a change waits for those that are on their way to the store. One of them may never get there.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// Upon what a change is built.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Base {
    /// The newest event, though its transaction may still wait to be committed.
    Newest,
    /// The newest event in the store. If another one is on its way there, the change is made again behind it.
    Stored,
}

impl Rooms {
    /// Sends an event into a room for a local user who is in it. A retry by the same device with the same transaction id
    /// answers the event of the first.
    pub async fn send(&self, room_id: &RoomId, draft: Draft) -> Result<OwnedEventId, RoomError> {
        if let Some(device) = &draft.device
            && let Some(event_id) = self.sent_already(room_id, &draft, device).await?
        {
            return Ok(event_id);
        }
        self.check_draft(room_id, &draft).await?;
        let outcome = self
            .change_room(room_id, async |mut composer| {
                let event = composer.append(draft.clone()).await?;
                self.end_typing_with(&mut composer.transaction, &event);
                Ok((composer, event.event_id.clone()))
            })
            .await;
        match (outcome, &draft.device) {
            // Its twin was quicker.
            (Err(error), Some(device)) => match self.sent_already(room_id, &draft, device).await? {
                Some(event_id) => Ok(event_id),
                None => Err(error),
            },
            (outcome, _) => outcome,
        }
    }

    /// The event that a device sent with this transaction id.
    async fn sent_already(
        &self,
        room_id: &RoomId,
        draft: &Draft,
        device: &SendingDevice,
    ) -> Result<Option<OwnedEventId>, RoomError> {
        let snapshot = self.store().snapshot().await?;
        let room = self.room(&snapshot, room_id).await?;
        let event_type = draft.event_type.to_string();
        let key = (
            draft.sender.localpart(),
            device.device_id.as_str(),
            room.number.0,
            event_type.as_str(),
            device.transaction_id.as_str(),
        );
        let row = snapshot.get(&rows::TRANSACTIONS, key).await?;
        Ok(row.and_then(|row| EventId::parse(row.event_id).ok()))
    }

    /// Forgets the transaction ids of events that nobody will send again. Answers how many.
    pub async fn forget_transactions(&self) -> Result<u64, RoomError> {
        let now = self.inner.environment.now().millis();
        let mut forgotten = 0;
        let mut next = Some(rows::TRANSACTIONS.scan(()).limit(PAGE));
        while let Some(scan) = next {
            let page = self.store().snapshot().await?.scan(&scan).await?;
            let mut transaction = Transaction::relaxed();
            for (key, row) in &page.rows {
                if row.at.saturating_add(REMEMBERED_FOR) < now {
                    transaction.delete(&rows::TRANSACTIONS, key);
                    forgotten += 1;
                }
            }
            if !transaction.is_empty() {
                self.store().commit(transaction).await?;
            }
            next = page.next.map(|at| scan.resume(at));
        }
        Ok(forgotten)
    }

    /// What the rules of rooms do not check, but a server owes its users.
    pub(crate) async fn check_draft(&self, room_id: &RoomId, draft: &Draft) -> Result<(), RoomError> {
        if let Some(device) = &draft.device
            && device.transaction_id.len() > 255
        {
            return Err(RoomError::TooLarge("a transaction id has at most 255 bytes"));
        }
        match draft.event_type {
            TimelineEventType::RoomCreate => {
                Err(RoomError::Forbidden("a room is created once, by POST /createRoom"))
            }
            TimelineEventType::RoomServerAcl if draft.state_key.is_some() => check_list(&draft.content),
            TimelineEventType::RoomCanonicalAlias if draft.state_key.is_some() => {
                self.check_canonical_aliases(room_id, draft).await
            }
            _ => Ok(()),
        }
    }

    /// Redacts an event for a local user: one's own, or anybody's with the power to.
    pub async fn redact(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        event_id: &EventId,
        reason: Option<&str>,
        device: Option<SendingDevice>,
    ) -> Result<OwnedEventId, RoomError> {
        let redaction = Draft::redaction(&self.view(room_id).await?, sender, event_id, reason).await?;
        self.send(room_id, Draft { device, ..redaction }).await
    }

    /// Makes events of one room in one transaction. `compose` is called again when the room changed meanwhile.
    pub(crate) async fn change_room<T, F, Fut>(&self, room_id: &RoomId, compose: F) -> Result<T, RoomError>
    where
        F: Fn(Composer) -> Fut,
        Fut: Future<Output = Result<(Composer, T), RoomError>>,
    {
        self.change(room_id, Base::Newest, compose).await
    }

    /// The same for what looks at the newest events themselves, which have to be in the store: events of other servers.
    pub(crate) async fn change_stored_room<T, F, Fut>(
        &self,
        room_id: &RoomId,
        compose: F,
    ) -> Result<T, RoomError>
    where
        F: Fn(Composer) -> Fut,
        Fut: Future<Output = Result<(Composer, T), RoomError>>,
    {
        self.change(room_id, Base::Stored, compose).await
    }

    async fn change<T, F, Fut>(&self, room_id: &RoomId, base: Base, compose: F) -> Result<T, RoomError>
    where
        F: Fn(Composer) -> Fut,
        Fut: Future<Output = Result<(Composer, T), RoomError>>,
    {
        let room = {
            let snapshot = self.store().snapshot().await?;
            self.room(&snapshot, room_id).await?
        };
        let (mut attempt, mut inquiries) = (0, 0);
        let mut answers = Arc::new(PolicyAnswers::default());
        loop {
            attempt += 1;
            match self.try_to_change(&room, base, &answers, &compose).await {
                Err(RoomError::Storage(error)) if error.is_conflict() && attempt < MOST_ATTEMPTS => {}
                Err(RoomError::AwaitsPolicy(inquiry)) if inquiries < MOST_INQUIRIES => {
                    inquiries += 1;
                    self.ask_policy_server(*inquiry, Arc::make_mut(&mut answers)).await?;
                }
                outcome => return outcome,
            }
        }
    }

    async fn try_to_change<T, F, Fut>(
        &self,
        room: &Arc<Room>,
        base: Base,
        answers: &Arc<PolicyAnswers>,
        compose: &F,
    ) -> Result<T, RoomError>
    where
        F: Fn(Composer) -> Fut,
        Fut: Future<Output = Result<(Composer, T), RoomError>>,
    {
        let mut place = room.head.lock().await;
        let newest = place.as_ref().map(|head| head.row.next_event);
        let view = match newest {
            Some(next_event) if base == Base::Stored => self.caught_up(room, next_event).await?,
            _ => self.newest_view(room).await?,
        };
        // The first versions of rooms name events by their hashes, for which the events are looked at.
        // What a policy server signed need not follow the newest.
        let looks_at_events = base == Base::Stored || needs_hashes(&room.rules) || !answers.own.is_empty();
        let head = match place.take() {
            Some(head) if !looks_at_events => head,
            remembered => {
                let stored = view.head().await?;
                // What was looked up of the state holds as long as nobody else has written.
                remembered.filter(|head| head.row == *stored).unwrap_or_else(|| Head::new(stored.clone()))
            }
        };
        // After an error the head is read again: it is seldom, and what was composed may have left traces in it.
        let mut composer = Composer::new(view, head);
        composer.answers = Arc::clone(answers);
        let (composer, answer) = compose(composer).await?;
        let Some(composed) = composer.finish() else { return Ok(answer) };
        let Composed { view, transaction, head, changes_state, made, redacted } = composed;
        let commit = self.store().commit(transaction);
        let committed = if changes_state || !redacted.is_empty() {
            // Who comes next reads what this writes.
            let committed = commit.await;
            if committed.is_ok() {
                *place = Some(head);
            }
            drop(place);
            committed
        } else {
            // Who comes next builds upon this before it is on disk, and is committed together with it or fails with it.
            let mut commit = std::pin::pin!(commit);
            let handed_in = futures_util::poll!(commit.as_mut());
            *place = Some(head);
            drop(place);
            let committed = match handed_in {
                Poll::Ready(committed) => committed,
                Poll::Pending => commit.await,
            };
            if committed.is_err() {
                *room.head.lock().await = None;
            }
            committed
        };
        if let Some(position) = committed?.position {
            // Who follows the log looks for them next.
            for event in made {
                view.remember(event.committed_at(position));
            }
        }
        for number in redacted {
            self.forget_redacted(room.number, number);
        }
        Ok(answer)
    }

    /// The room as it is in the store.
    async fn newest_view(&self, room: &Arc<Room>) -> Result<RoomView, RoomError> {
        let redactions = self.redactions();
        let snapshot = self.store().snapshot().await?;
        Ok(RoomView::new(self.clone(), snapshot, Arc::clone(room), redactions))
    }

    /// The same once the events below a number are there: what is made without them has to be made again.
    async fn caught_up(&self, room: &Arc<Room>, next_event: i64) -> Result<RoomView, RoomError> {
        let arrival = async {
            let mut watch = self.store().watch();
            loop {
                let view = self.newest_view(room).await?;
                if view.head().await?.next_event >= next_event {
                    return Ok::<_, RoomError>(view);
                }
                watch.beyond(&view.position().await?).await?;
            }
        };
        match tokio::time::timeout(LONGEST_WAIT, arrival).await {
            Ok(view) => view,
            Err(_) => self.newest_view(room).await,
        }
    }
}

impl Draft {
    /// A redaction, if the sender may redact that event: one's own, or anybody's with the power to.
    pub(crate) async fn redaction(
        view: &RoomView,
        sender: &UserId,
        event_id: &EventId,
        reason: Option<&str>,
    ) -> Result<Self, RoomError> {
        view.require_joined(sender).await?;
        let target = view.event_by_id(event_id).await?.ok_or(RoomError::EventNotFound)?;
        if target.event_type == TimelineEventType::RoomCreate {
            return Err(RoomError::Forbidden("the event that made a room cannot be redacted"));
        }
        if target.sender != sender {
            let powers = view.powers().await?;
            if !powers.may(sender, ruma::state_res::events::RoomPowerLevelsIntField::Redact) {
                return Err(RoomError::Forbidden("you may not redact what others wrote in this room"));
            }
        }
        let mut content = ruma::CanonicalJsonObject::new();
        if let Some(reason) = reason {
            content.insert(String::from("reason"), reason.to_owned().into());
        }
        if view.room.rules.redaction.content_field_redacts {
            content.insert(String::from("redacts"), event_id.as_str().to_owned().into());
        }
        let redaction = Self::message(sender, TimelineEventType::RoomRedaction, content);
        Ok(Self { redacts: Some(event_id.to_owned()), ..redaction })
    }
}

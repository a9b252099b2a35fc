//! Who is told of what: the follower of the log that puts down what is to be sent.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use entente_accounts::Change as AccountChange;
use entente_rooms::{Change, Event, Membership, RoomNumber, RoomView};
use entente_storage::{Follower, LogEntry, LogPosition, StartFrom, Transaction, keep_following};

use crate::{
    Delivery, DeliveryError,
    rows::{self, QueuedRow},
};

/// Records that are read at once.
const MOST_RECORDS: usize = 256;
/// Rows that one transaction puts down, or more if a single record has more.
const MOST_ROWS: usize = 2_000;
/// Records that may pass unnoticed before the cursor is stored.
const MOST_PASSED: usize = 4_096;
/// The follower's name.
const NAME: &str = "delivery.push";
/// Nobody is woken for what is older than this.
const OLDEST: Duration = Duration::from_secs(24 * 60 * 60);
/// Rooms of which it is remembered who in them has pushers.
const MOST_AUDIENCES: usize = 20_000;

/// What is to be put down for a batch of records.
#[derive(Default)]
struct Waiting {
    transaction: Transaction,
    pushers: BTreeSet<u64>,
    rows: usize,
    /// How much was put down for the record that is being read.
    place: u32,
}

impl Delivery {
    /// Follows the log and sends, for as long as it is polled.
    pub async fn follow(self) {
        let has_woken = AtomicBool::new(false);
        keep_following(NAME, DeliveryError::is_conflict, || self.follow_until_failure(&has_woken)).await;
    }

    /// `has_woken`: whether those for whom something waits from before were woken.
    async fn follow_until_failure(&self, has_woken: &AtomicBool) -> Result<Infallible, DeliveryError> {
        if !has_woken.load(Ordering::Relaxed) {
            for pusher in self.waiting_pushers().await? {
                self.wake(pusher);
            }
            has_woken.store(true, Ordering::Relaxed);
        }
        let mut follower = Follower::open(&self.inner.store, NAME, StartFrom::Now).await?;
        // Another node may have read on, and what it heard of was not heard of here.
        self.inner.audiences.lock().clear();
        self.inner.badges.forget_all();
        let mut passed = 0;
        loop {
            let mut done = follower.position().clone();
            let records = follower.next(MOST_RECORDS).await?;
            let mut waiting = Waiting::default();
            for record in &records {
                waiting.place = 0;
                for entry in &record.entries {
                    self.note(entry, record.position, &mut waiting).await?;
                }
                passed += 1;
                done.include(record.position);
                if waiting.rows >= MOST_ROWS {
                    follower.go_back_to(done);
                    break;
                }
            }
            if !waiting.pushers.is_empty() || passed >= MOST_PASSED {
                follower.advance_in(&mut waiting.transaction);
                self.inner.store.commit(waiting.transaction).await?;
                follower.advanced();
                passed = 0;
            }
            for pusher in waiting.pushers {
                self.wake(pusher);
            }
        }
    }

    async fn note(
        &self,
        entry: &LogEntry,
        position: LogPosition,
        waiting: &mut Waiting,
    ) -> Result<(), DeliveryError> {
        match entry.topic {
            entente_rooms::TOPIC => return self.note_of_room(entry, position, waiting).await,
            entente_accounts::TOPIC => match AccountChange::from_payload(&entry.payload) {
                Ok(
                    AccountChange::Devices { localpart, .. } | AccountChange::Deactivated { localpart, .. },
                ) => {
                    self.forget_devices(&localpart).await?;
                }
                Ok(_) => {}
                Err(error) => tracing::error!(%error, "a log entry about an account cannot be read"),
            },
            crate::TOPIC => match crate::Change::from_payload(&entry.payload) {
                Ok(crate::Change::Pushers { localpart }) => {
                    self.inner.audiences.lock().clear();
                    self.inner.badges.forget(&localpart);
                }
                Err(error) => tracing::error!(%error, "a log entry about pushers cannot be read"),
            },
            _ => {}
        }
        Ok(())
    }

    async fn note_of_room(
        &self,
        entry: &LogEntry,
        position: LogPosition,
        waiting: &mut Waiting,
    ) -> Result<(), DeliveryError> {
        match Change::from_payload(&entry.payload) {
            Ok(Change::Event { room, number, member, .. }) => {
                let invited = member.as_ref().filter(|(_, membership)| *membership == Membership::Invite);
                let invited = invited.map(|(user_id, _)| user_id.clone());
                if let Some((user_id, membership)) = &member {
                    self.note_member(RoomNumber(room), user_id).await?;
                    if *membership != Membership::Join {
                        self.note_less(RoomNumber(room), user_id, position, waiting).await?;
                    }
                }
                self.note_event(room, number, invited.as_deref(), position, waiting).await?;
            }
            Ok(Change::Membership { room, user_id, membership }) => {
                self.note_member(RoomNumber(room), &user_id).await?;
                if membership == Membership::Invite {
                    self.note_outside_invite(room, &user_id, position, waiting).await?;
                } else if membership != Membership::Join {
                    self.note_less(RoomNumber(room), &user_id, position, waiting).await?;
                }
            }
            Ok(Change::Receipt { room, user_id, .. }) => {
                self.note_less(RoomNumber(room), &user_id, position, waiting).await?;
            }
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "a log entry about a room cannot be read"),
        }
        Ok(())
    }

    async fn note_event(
        &self,
        room: u64,
        number: i64,
        invited: Option<&str>,
        position: LogPosition,
        waiting: &mut Waiting,
    ) -> Result<(), DeliveryError> {
        let mut audience = self.audience(RoomNumber(room)).await?.to_vec();
        if let Some(localpart) = invited.and_then(|user_id| self.inner.rooms.local(user_id))
            && self.has_pushers(localpart).await?
        {
            audience.push(localpart.to_owned());
        }
        if audience.is_empty() {
            return Ok(());
        }
        let found = self.inner.rooms.event_by_number(room, number).await?;
        let Some((view, event)) = found.filter(|(_, event)| event.is_shown()) else { return Ok(()) };
        if entente_sync::marks_as_read(&event) {
            self.note_less(RoomNumber(room), event.sender.as_str(), position, waiting).await?;
        }
        self.put_down(&view, &event, &audience, position, waiting).await
    }

    /// An invite to a room that this server is not in.
    async fn note_outside_invite(
        &self,
        room: u64,
        user_id: &str,
        position: LogPosition,
        waiting: &mut Waiting,
    ) -> Result<(), DeliveryError> {
        let Some(localpart) = self.inner.rooms.local(user_id) else { return Ok(()) };
        if !self.has_pushers(localpart).await? {
            return Ok(());
        }
        let snapshot = self.inner.store.snapshot().await?;
        let rooms = self.inner.rooms.user_rooms(&snapshot, localpart).await?;
        let Some(invite) = rooms.into_iter().find(|known| known.number == RoomNumber(room)) else {
            return Ok(());
        };
        let found = self.inner.rooms.event_by_number(room, invite.event.0).await?;
        // One that is shown came by itself.
        let Some((view, event)) = found.filter(|(_, event)| !event.is_shown()) else { return Ok(()) };
        self.put_down(&view, &event, &[localpart.to_owned()], position, waiting).await
    }

    async fn put_down(
        &self,
        view: &RoomView,
        event: &Event,
        audience: &[String],
        position: LogPosition,
        waiting: &mut Waiting,
    ) -> Result<(), DeliveryError> {
        let now = self.inner.environment.now();
        let oldest = u64::try_from(OLDEST.as_millis()).unwrap_or(u64::MAX);
        if now.millis().saturating_sub(event.origin_server_ts) > oldest {
            return Ok(());
        }
        for judgement in self.inner.sync.judge(view, event, audience).await? {
            let queued = QueuedRow {
                room: view.room.number.0,
                event: Some(event.number.0),
                highlight: judgement.highlight,
                sound: judgement.sound,
                at: now.millis(),
            };
            self.queue(&judgement.localpart, &queued, position, waiting).await?;
        }
        Ok(())
    }

    /// Who read something, said something or left a room is told that less is unread, if something was told before.
    async fn note_less(
        &self,
        room: RoomNumber,
        user_id: &str,
        position: LogPosition,
        waiting: &mut Waiting,
    ) -> Result<(), DeliveryError> {
        let Some(localpart) = self.inner.rooms.local(user_id) else { return Ok(()) };
        if !self.inner.badges.tells_of(localpart, room) {
            return Ok(());
        }
        let at = self.inner.environment.now().millis();
        let queued = QueuedRow { room: room.0, event: None, highlight: false, sound: None, at };
        self.queue(localpart, &queued, position, waiting).await
    }

    /// Puts something down for all pushers of a user.
    async fn queue(
        &self,
        localpart: &str,
        queued: &QueuedRow,
        position: LogPosition,
        waiting: &mut Waiting,
    ) -> Result<(), DeliveryError> {
        let snapshot = self.inner.store.snapshot().await?;
        let mut is_told = false;
        for (_, pusher) in snapshot.scan_all(rows::PUSHERS.scan((localpart,))).await? {
            if pusher.disabled {
                continue;
            }
            is_told = true;
            waiting.transaction.put(&rows::QUEUE, (pusher.number, position, waiting.place), queued);
            waiting.place = waiting.place.saturating_add(1);
            waiting.rows += 1;
            waiting.pushers.insert(pusher.number);
        }
        if !is_told {
            // Nobody counts for them what happens from here on.
            self.inner.badges.forget(localpart);
        }
        Ok(())
    }

    async fn has_pushers(&self, localpart: &str) -> Result<bool, DeliveryError> {
        let snapshot = self.inner.store.snapshot().await?;
        Ok(!snapshot.scan(&rows::PUSHERS.scan((localpart,)).limit(1)).await?.rows.is_empty())
    }

    /// Somebody came into a room or left it: who in it has pushers may be others now.
    async fn note_member(&self, room: RoomNumber, user_id: &str) -> Result<(), DeliveryError> {
        let Some(localpart) = self.inner.rooms.local(user_id) else { return Ok(()) };
        let Some(known) = self.inner.audiences.lock().get(&room).cloned() else { return Ok(()) };
        let snapshot = self.inner.store.snapshot().await?;
        let is_in = !self.inner.rooms.sharing_rooms(&snapshot, &[room], &[user_id]).await?.is_empty();
        let belongs = is_in && self.has_pushers(localpart).await?;
        if belongs == known.iter().any(|other| other == localpart) {
            return Ok(());
        }
        let mut audience: Vec<String> = known.iter().filter(|other| *other != localpart).cloned().collect();
        if belongs {
            audience.push(localpart.to_owned());
        }
        self.inner.audiences.lock().insert(room, audience.into());
        Ok(())
    }

    /// Those of the local users in a room who have pushers.
    async fn audience(&self, room: RoomNumber) -> Result<Arc<[String]>, DeliveryError> {
        if let Some(known) = self.inner.audiences.lock().get(&room) {
            return Ok(Arc::clone(known));
        }
        let snapshot = self.inner.store.snapshot().await?;
        let mut audience = Vec::new();
        for localpart in self.inner.rooms.local_members(&snapshot, room).await? {
            let scan = rows::PUSHERS.scan((localpart.as_str(),)).limit(1);
            if !snapshot.scan(&scan).await?.rows.is_empty() {
                audience.push(localpart);
            }
        }
        let audience: Arc<[String]> = audience.into();
        let mut audiences = self.inner.audiences.lock();
        if audiences.len() >= MOST_AUDIENCES {
            audiences.clear();
        }
        audiences.insert(room, Arc::clone(&audience));
        Ok(audience)
    }
}

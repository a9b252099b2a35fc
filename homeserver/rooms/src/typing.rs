//! Who is typing (C-S API, "Typing Notifications").

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Weak},
    time::Duration,
};

use entente_environment::Timestamp;
use entente_storage::Transaction;
use parking_lot::Mutex;
use ruma::{OwnedUserId, RoomId, UserId, events::TimelineEventType};
use tokio::sync::watch;

use crate::{Change, Event, Inner, Membership, RoomError, RoomNumber, RoomView, Rooms, rows};

/// Nobody types longer without saying so again.
const LONGEST: Duration = Duration::from_secs(120);
/// How late it may be told that somebody's time is over.
const TICK: Duration = Duration::from_secs(1);
/// Typists whose end this process sees to. Beyond it nobody begins to type.
const MOST_TYPISTS: usize = 100_000;

/// A room and a user in it.
type Typist = (RoomNumber, String);

/// When the typing of those ends who told it to this process. What counts is in the store: this only says when to look.
#[derive(Debug)]
pub(crate) struct Typists {
    deadlines: Mutex<HashMap<Typist, u64>>,
    began: watch::Sender<()>,
}

impl Typists {
    pub(crate) fn new() -> Self {
        Self { deadlines: Mutex::new(HashMap::new()), began: watch::Sender::new(()) }
    }

    fn note(&self, typist: Typist, until: u64) {
        self.deadlines.lock().insert(typist, until);
        self.began.send_replace(());
    }

    fn forget(&self, typist: &Typist) {
        self.deadlines.lock().remove(typist);
    }

    fn knows(&self, typist: &Typist) -> bool {
        self.deadlines.lock().contains_key(typist)
    }

    fn is_full(&self) -> bool {
        self.deadlines.lock().len() >= MOST_TYPISTS
    }

    fn is_empty(&self) -> bool {
        self.deadlines.lock().is_empty()
    }

    fn take_due(&self, now: Timestamp) -> BTreeMap<RoomNumber, Vec<String>> {
        let mut due: BTreeMap<RoomNumber, Vec<String>> = BTreeMap::new();
        self.deadlines.lock().retain(|(room, user_id), until| {
            let is_typing = is_typing(*until, now);
            if !is_typing {
                due.entry(*room).or_default().push(user_id.clone());
            }
            is_typing
        });
        due
    }
}

/// Whether somebody who types until then does so now. A time that lies further ahead than anybody may type was written
/// before the clock was set back.
fn is_typing(until: u64, now: Timestamp) -> bool {
    until > now.millis() && until <= now.after(LONGEST).millis()
}

impl Rooms {
    /// Notes that somebody who is in the room types, for so long, at most two minutes; again, that they still do.
    pub async fn begin_typing(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        timeout: Duration,
    ) -> Result<(), RoomError> {
        if timeout.is_zero() || self.inner.typists.is_full() {
            return self.cease_typing(room_id, user_id).await;
        }
        let redactions = self.redactions();
        let now = self.inner.environment.now();
        let until = now.after(timeout.min(LONGEST)).millis();
        let (room, _) = self
            .store()
            .run(async |snapshot| {
                let room = self.room(&snapshot, room_id).await?;
                let view = RoomView::new(self.clone(), snapshot, room, redactions);
                let member = view.joined_row(user_id).await?;
                let key = (view.room.number.0, user_id.as_str());
                let row = view.snapshot.get(&rows::TYPING, key).await?;
                let goes_on = row.is_some_and(|until| is_typing(until, now));
                // That they still type is news to nobody, and may be lost.
                let mut transaction = if goes_on { Transaction::relaxed() } else { Transaction::new() };
                transaction.check_unchanged(&rows::MEMBERS, key, Some(&member));
                transaction.check_unchanged(&rows::TYPING, key, row.as_ref());
                transaction.put(&rows::TYPING, key, &until);
                if !goes_on {
                    Change::Typing { room: key.0 }.log_in(&mut transaction);
                }
                Ok::<_, RoomError>((transaction, view.room.number))
            })
            .await?;
        self.inner.typists.note((room, user_id.to_string()), until);
        Ok(())
    }

    /// Notes that somebody who is in the room does not type any more.
    pub async fn cease_typing(&self, room_id: &RoomId, user_id: &UserId) -> Result<(), RoomError> {
        let redactions = self.redactions();
        let (room, _) = self
            .store()
            .run(async |snapshot| {
                let room = self.room(&snapshot, room_id).await?;
                let view = RoomView::new(self.clone(), snapshot, room, redactions);
                view.joined_row(user_id).await?;
                let key = (view.room.number.0, user_id.as_str());
                let mut transaction = Transaction::new();
                if view.snapshot.get(&rows::TYPING, key).await?.is_some() {
                    transaction.delete(&rows::TYPING, key);
                    Change::Typing { room: key.0 }.log_in(&mut transaction);
                }
                Ok::<_, RoomError>((transaction, view.room.number))
            })
            .await?;
        self.inner.typists.forget(&(room, user_id.to_string()));
        Ok(())
    }

    /// Who has sent a message types no more: told by the transaction that sends it.
    pub(crate) fn end_typing_with(&self, transaction: &mut Transaction, event: &Event) {
        let is_message =
            matches!(event.event_type, TimelineEventType::RoomMessage | TimelineEventType::RoomEncrypted);
        if is_message && self.inner.typists.knows(&(event.room, event.sender.to_string())) {
            transaction.delete(&rows::TYPING, (event.room.0, event.sender.as_str()));
            Change::Typing { room: event.room.0 }.log_in(transaction);
        }
    }

    /// Ends the typing of those whose time is over, and tells it.
    pub async fn end_typing(&self, now: Timestamp) -> Result<(), RoomError> {
        let typists = &self.inner.typists;
        let mut failure = None;
        for (room, users) in typists.take_due(now) {
            match self.end_typing_in(room, &users, now).await {
                // Another node was told that they go on.
                Ok(others) => {
                    for (user_id, until) in others {
                        typists.note((room, user_id), until);
                    }
                }
                Err(error) => {
                    for user_id in users {
                        typists.note((room, user_id), now.millis());
                    }
                    failure = Some(error);
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Answers who types all the same, and until when.
    async fn end_typing_in(
        &self,
        room: RoomNumber,
        users: &[String],
        now: Timestamp,
    ) -> Result<Vec<(String, u64)>, RoomError> {
        let (others, _) = self
            .store()
            .run(async |snapshot| {
                let keys = users.iter().map(|user_id| (room.0, user_id.as_str()));
                let found = snapshot.get_many(&rows::TYPING, keys).await?;
                let mut transaction = Transaction::new();
                let mut others = Vec::new();
                for (user_id, until) in users.iter().zip(found) {
                    let Some(until) = until else { continue };
                    if is_typing(until, now) {
                        others.push((user_id.clone(), until));
                        continue;
                    }
                    let key = (room.0, user_id.as_str());
                    transaction.check_unchanged(&rows::TYPING, key, Some(&until));
                    transaction.delete(&rows::TYPING, key);
                }
                if !transaction.is_empty() {
                    Change::Typing { room: room.0 }.log_in(&mut transaction);
                }
                Ok::<_, RoomError>((transaction, others))
            })
            .await?;
        Ok(others)
    }

    /// Sees to the end of all typing from now on, also of what an earlier process left unended.
    pub(crate) async fn watch_typing(&self) -> Result<(), RoomError> {
        let snapshot = self.store().snapshot().await?;
        let mut began = self.inner.typists.began.subscribe();
        for ((room, user_id), until) in snapshot.scan_all(rows::TYPING.scan(())).await? {
            self.inner.typists.note((RoomNumber(room), user_id), until);
        }
        let inner = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            while began.changed().await.is_ok() {
                end_until_quiet(&inner).await;
            }
        });
        Ok(())
    }
}

/// Ends typing as it is due until nobody types.
async fn end_until_quiet(inner: &Weak<Inner>) {
    loop {
        tokio::time::sleep(TICK).await;
        let Some(inner) = inner.upgrade() else { return };
        let rooms = Rooms { inner };
        if let Err(error) = rooms.end_typing(rooms.inner.environment.now()).await {
            tracing::warn!(%error, "it could not be told that somebody types no more; it will be tried again");
        }
        if rooms.inner.typists.is_empty() {
            return;
        }
    }
}

impl RoomView {
    /// Who types in the room.
    pub async fn typing(&self, now: Timestamp) -> Result<Vec<OwnedUserId>, RoomError> {
        let room = self.room.number.0;
        let rows = self.snapshot.scan_all(rows::TYPING.scan((room,))).await?;
        let typing: Vec<String> = rows
            .into_iter()
            .filter(|(_, until)| is_typing(*until, now))
            .map(|((_, user_id), _)| user_id)
            .collect();
        if typing.is_empty() {
            return Ok(Vec::new());
        }
        // Who has left meanwhile types here no more.
        let keys = typing.iter().map(|user_id| (room, user_id.as_str()));
        let members = self.snapshot.get_many(&rows::MEMBERS, keys).await?;
        let joined = typing.into_iter().zip(members).filter(|(_, member)| {
            member.as_ref().is_some_and(|member| member.membership == Membership::Join)
        });
        Ok(joined.filter_map(|(user_id, _)| UserId::parse(user_id).ok()).collect())
    }
}

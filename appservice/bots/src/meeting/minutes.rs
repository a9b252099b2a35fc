//! Minutes: who was in a call and when.
//!
//! Nothing is noted unless a moderator switched it on, which the room is told, and any member's objection ends it and deletes what was
//! noted. When the last has left, the minutes are posted and deleted.
//!
//! Who is in a call is in the room's state, or is said by events that stick to the room for a while: whoever does not renew theirs has left
//! when that while is over.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc, time::Duration};

use entente_appservice::{
    Batch, Bridge, Command, Context, Error, Event, HandlerResult, InRoom, StateEvent,
    ruma::{RoomId, events::call::member::CallMemberEventContent},
};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::{
    may,
    membership::{self, StickyMembership},
};

/// Where the rooms are that agreed, with what was noted.
const MINUTES: &str = "meeting.minutes";
/// How many lines minutes have at the most; what comes after is counted.
const MOST_LINES: usize = 500;
/// How long their text is at the most, in bytes: encrypted, and so longer by a half, it still is an event.
const MOST_BYTES: usize = 30_000;

/// What the room is told before anything is noted.
const CONSENT: &str = "From now on I note who enters and leaves calls here, and post it when the call is over. \
                       Who does not agree says `!meet object`: then I stop, and delete what I noted.";

/// What was noted of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Minutes {
    /// Who is there, by membership, since when.
    present: BTreeMap<String, (String, u64)>,
    /// Who was there, from when to when, in milliseconds since 1970.
    past: Vec<(String, u64, u64)>,
    /// How many lines had no place.
    left_out: u32,
    /// When who is there is so no more unless they renew it, by membership, in milliseconds since 1970.
    #[serde(default)]
    until: BTreeMap<String, u64>,
}

/// Where minutes are kept. Held by whoever changes some. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Desk(Arc<Mutex<()>>);

impl Minutes {
    /// Somebody's membership begins, goes on, or ends.
    fn note(&mut self, membership: &str, user_id: &str, is_there: bool, at: u64) {
        if is_there {
            if self.present.len() < MOST_LINES {
                self.present.entry(membership.to_owned()).or_insert_with(|| (user_id.to_owned(), at));
            }
            return;
        }
        self.until.remove(membership);
        let Some((user_id, since)) = self.present.remove(membership) else { return };
        if self.past.len() < MOST_LINES {
            self.past.push((user_id, since, at));
        } else {
            self.left_out += 1;
        }
    }

    /// The same of a membership that holds for a while; `until` is `None` when it ends.
    fn note_until(&mut self, membership: &str, user_id: &str, until: Option<u64>, at: u64) {
        self.note(membership, user_id, until.is_some(), at);
        if let Some(until) = until
            && self.present.contains_key(membership)
        {
            self.until.insert(membership.to_owned(), until);
        }
    }

    /// Ends the memberships that nobody renewed. Answers whether there were any.
    fn lapse(&mut self, now: u64) -> bool {
        let is_lapsed = |(_, until): &(&String, &u64)| **until <= now;
        let lapsed: Vec<(String, u64)> = self
            .until
            .iter()
            .filter(is_lapsed)
            .map(|(membership, until)| (membership.clone(), *until))
            .collect();
        for (membership, until) in &lapsed {
            self.note(membership, "", false, *until);
        }
        !lapsed.is_empty()
    }

    /// When the last line ends, in milliseconds since 1970.
    fn end(&self) -> u64 {
        self.past.iter().map(|(_, _, to)| *to).max().unwrap_or_default()
    }

    fn is_over(&self) -> bool {
        self.present.is_empty() && !self.past.is_empty()
    }

    /// The minutes as people read them, cut where they get too long.
    fn text(&self) -> String {
        let past = self.past.iter().map(|(who, from, to)| format!("{who} {}–{}", time(*from), time(*to)));
        let present = self.present.values().map(|(who, since)| format!("{who} {}–", time(*since)));
        let mut text = "Minutes (UTC):".to_owned();
        let mut left_out = self.left_out;
        for line in past.chain(present) {
            if text.len() + line.len() < MOST_BYTES {
                text.push('\n');
                text.push_str(&line);
            } else {
                left_out += 1;
            }
        }
        if left_out > 0 {
            // Writing to a string does not fail.
            let _ = write!(text, "\nand {left_out} more");
        }
        text
    }
}

/// Hours and minutes of the day.
fn time(millis: u64) -> String {
    let minutes = millis / 60_000;
    format!("{:02}:{:02}", minutes / 60 % 24, minutes % 60)
}

impl Desk {
    /// Notes who enters and leaves a call by the room's state.
    pub(super) async fn note_state(
        self,
        event: StateEvent<CallMemberEventContent>,
        context: Context,
    ) -> HandlerResult {
        let is_there = !event.content.memberships().is_empty();
        let note = |minutes: &mut Minutes| {
            minutes.note(&event.state_key, event.sender.as_str(), is_there, event.origin_server_ts);
        };
        self.change(context.bridge(), &event.room_id, &context.room(), note).await
    }

    /// The same by events that stick.
    pub(super) async fn note_sticky(self, event: Event<StickyMembership>, context: Context) -> HandlerResult {
        let (membership, until) = membership::of(&event);
        let note = |minutes: &mut Minutes| {
            minutes.note_until(&membership, event.sender.as_str(), until, event.origin_server_ts);
        };
        self.change(context.bridge(), &event.room_id, &context.room(), note).await
    }

    /// Changes the minutes of a room, if any are kept. Minutes that are over are posted before they are deleted: a handler that runs again
    /// has the same ones, and the homeserver knows what they were posted as.
    async fn change(
        &self,
        bridge: &Bridge,
        room_id: &RoomId,
        room: &InRoom,
        note: impl FnOnce(&mut Minutes),
    ) -> HandlerResult {
        let _turn = self.0.lock().await;
        let (store, key) = (bridge.store(), room_id.as_str());
        let Some(mut minutes) = store.get::<Minutes>(MINUTES, key).await.map_err(Error::from)? else {
            return Ok(());
        };
        note(&mut minutes);
        if minutes.is_over() {
            room.notice(minutes.text()).await?;
            minutes = Minutes::default();
        }
        store.put(MINUTES, key, &minutes).await.map_err(Error::from)?;
        Ok(())
    }

    /// Looks for who is in a call no more without having said so, for ever.
    pub(super) fn start(self, bridge: &Bridge, interval: Duration) {
        let worker = bridge.clone();
        bridge.spawn(async move {
            loop {
                tokio::time::sleep(interval).await;
                if let Err(error) = self.lapse(&worker).await {
                    tracing::warn!(%error, "who has left calls will be looked for again");
                }
            }
        });
    }

    async fn lapse(&self, bridge: &Bridge) -> Result<(), Error> {
        let now = bridge.environment().now().millis();
        for (key, mut minutes) in bridge.store().list::<Minutes>(MINUTES).await? {
            let Ok(room_id) = RoomId::parse(&key) else { continue };
            if !minutes.lapse(now) {
                continue;
            }
            let room = bridge.bot().in_room(&room_id);
            let cause = format!("minutes {room_id} {}", minutes.end());
            let lapse = |minutes: &mut Minutes| {
                minutes.lapse(now);
            };
            // A room that cannot be reached holds up no other.
            if let Err(error) = bridge.once(&cause, self.change(bridge, &room_id, &room, lapse)).await {
                tracing::warn!(room.id = %room_id, %error, "minutes will be tried again");
            }
        }
        Ok(())
    }

    /// Switches minutes on or off, or shows them.
    pub(super) async fn switch(self, command: Command, context: Context) -> HandlerResult {
        let _turn = self.0.lock().await;
        let (store, room) = (context.bridge().store().clone(), context.room());
        let key = command.event.room_id.as_str();
        let found = store.get::<Minutes>(MINUTES, key).await.map_err(Error::from)?;
        let answer = match (command.words.first().map(String::as_str), found) {
            (None, Some(minutes)) => minutes.text(),
            (None, None) => "No minutes are kept here.".to_owned(),
            (Some("on" | "off"), _) if !may(&context, &command.event.sender, "state").await? => {
                "This takes a moderator. Anybody may say `!meet object`.".to_owned()
            }
            (Some("on"), Some(_)) => "Minutes are kept already.".to_owned(),
            (Some("on"), None) => {
                // Nothing is noted before the room was told.
                room.notice(CONSENT).await?;
                store.put(MINUTES, key, &Minutes::default()).await.map_err(Error::from)?;
                return Ok(());
            }
            (Some("off"), _) => {
                store.delete(MINUTES, key).await.map_err(Error::from)?;
                "I keep no minutes here.".to_owned()
            }
            (Some(_), _) => "It is `!meet minutes`, `!meet minutes on` or `!meet minutes off`.".to_owned(),
        };
        room.notice(answer).await?;
        Ok(())
    }

    /// Ends the minutes because somebody does not agree.
    pub(super) async fn object(self, command: Command, context: Context) -> HandlerResult {
        let _turn = self.0.lock().await;
        let batch = Batch::new().delete(MINUTES, command.event.room_id.as_str());
        context.bridge().store().apply(batch).await.map_err(Error::from)?;
        let told = "Somebody objects: I keep no minutes here, and what I noted is deleted.";
        context.room().notice(told).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_over_when_the_last_has_left() {
        let mut minutes = Minutes::default();
        minutes.note("_@a:x_D", "@a:x", true, 60_000);
        minutes.note("_@b:x_D", "@b:x", true, 120_000);
        // A client that prolongs its membership was there all the time.
        minutes.note("_@a:x_D", "@a:x", true, 180_000);
        minutes.note("_@a:x_D", "@a:x", false, 240_000);
        assert!(!minutes.is_over());
        minutes.note("_@b:x_D", "@b:x", false, 3_600_000);
        assert!(minutes.is_over());
        assert_eq!(minutes.text(), "Minutes (UTC):\n@a:x 00:01–00:04\n@b:x 00:02–01:00");
    }

    #[test]
    fn who_does_not_renew_what_sticks_has_left() {
        let mut minutes = Minutes::default();
        minutes.note_until("a", "@a:x", Some(300_000), 60_000);
        minutes.note_until("b", "@b:x", Some(300_000), 120_000);
        minutes.note_until("a", "@a:x", Some(600_000), 240_000);
        assert!(!minutes.lapse(299_999));
        assert!(minutes.lapse(300_000) && !minutes.is_over());
        minutes.note_until("a", "@a:x", None, 420_000);
        assert!(minutes.is_over() && !minutes.lapse(u64::MAX));
        assert_eq!(minutes.text(), "Minutes (UTC):\n@b:x 00:02–00:05\n@a:x 00:01–00:07");
        assert_eq!(minutes.end(), 420_000);
    }

    #[test]
    fn who_was_never_there_does_not_leave_and_lines_are_bounded() {
        let mut minutes = Minutes::default();
        minutes.note("x", "@a:x", false, 1);
        assert_eq!(minutes, Minutes::default());
        for at in 0..600 {
            minutes.note("x", "@a:x", true, at);
            minutes.note("x", "@a:x", false, at);
        }
        assert_eq!((minutes.past.len(), minutes.left_out), (500, 100));
    }

    #[test]
    fn a_text_is_cut_before_it_is_too_long_for_an_event() {
        let mut minutes = Minutes::default();
        let user_id = format!("@{}:example.org", "a".repeat(240));
        for at in 0..500 {
            minutes.note("x", &user_id, true, at);
            minutes.note("x", &user_id, false, at);
        }
        let text = minutes.text();
        assert!(text.len() < MOST_BYTES + 100, "{}", text.len());
        let lines = text.lines().count() - 2;
        assert!(text.ends_with(&format!("\nand {} more", 500 - lines)), "what is cut is counted");
    }
}

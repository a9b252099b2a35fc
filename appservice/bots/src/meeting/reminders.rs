//! Reminders. They are in the store, so they outlive the process, and each is sent once.

use std::{collections::HashSet, time::Duration};

use entente_appservice::{
    Batch, Bridge, Command, Context, Error, HandlerResult,
    message::RoomMessageEventContent,
    ruma::{OwnedRoomId, OwnedUserId, events::Mentions},
};
use serde::{Deserialize, Serialize};

use super::cause;

/// Where they are kept, by the time at which they are due.
const REMINDERS: &str = "meeting.reminders";
/// Where is kept which ones were forgotten, by the event that asked for it.
const FORGOTTEN: &str = "meeting.forgotten";
/// How long that is kept, and how long a room is tried that cannot be reached.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How many a room may have.
const MOST_IN_ROOM: usize = 50;
/// How many there may be.
const MOST: usize = 9_000;
/// The latest that one can be due.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// The longest text, in bytes.
const MOST_BYTES: usize = 1_000;

/// Something that a room shall be reminded of.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Reminder {
    room_id: OwnedRoomId,
    by: OwnedUserId,
    /// Milliseconds since 1970.
    due: u64,
    text: String,
    cause: String,
}

/// What somebody asked to forget.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Forgotten {
    /// Milliseconds since 1970.
    at: u64,
    text: String,
}

/// A time from now, as people write it: `90s`, `10m`, `1h30m`, `2d`, `1w`.
fn duration(text: &str) -> Option<Duration> {
    let (mut total, mut number) = (0_u64, None::<u64>);
    for character in text.chars() {
        if let Some(digit) = character.to_digit(10) {
            number = Some(number.unwrap_or(0).checked_mul(10)?.checked_add(digit.into())?);
            continue;
        }
        let seconds = match character {
            's' => 1,
            'm' => 60,
            'h' => 60 * 60,
            'd' => 24 * 60 * 60,
            'w' => 7 * 24 * 60 * 60,
            _ => return None,
        };
        total = total.checked_add(number.take()?.checked_mul(seconds)?)?;
    }
    let duration = Duration::from_secs(total);
    (number.is_none() && !duration.is_zero() && duration <= LONGEST).then_some(duration)
}

async fn of_room(context: &Context) -> Result<(usize, Vec<(String, Reminder)>), Error> {
    let all = context.bridge().store().list::<Reminder>(REMINDERS).await?;
    let count = all.len();
    let room = context.room();
    Ok((count, all.into_iter().filter(|(_, reminder)| reminder.room_id == room.id()).collect()))
}

/// Puts down a reminder.
pub(super) async fn add(command: Command, context: Context) -> HandlerResult {
    let room = context.room();
    let (when, what) = command.text.split_once(char::is_whitespace).unwrap_or((&command.text, ""));
    let Some(after) = duration(when) else {
        room.notice("When? For instance 10m, 1h30m or 2d, at most 366d.").await?;
        return Ok(());
    };
    let what = what.trim();
    if what.is_empty() || what.len() > MOST_BYTES {
        room.notice(format!("Of what? It takes 1 to {MOST_BYTES} bytes.")).await?;
        return Ok(());
    }
    let (all, here) = of_room(&context).await?;
    let cause = cause("reminder", &command.event.event_id);
    // A handler that runs again finds its reminder: it is not due later, and there are not two.
    let is_there = here.iter().any(|(_, earlier)| earlier.cause == cause);
    if !is_there && (all >= MOST || here.len() >= MOST_IN_ROOM) {
        room.notice("There are too many reminders.").await?;
        return Ok(());
    }
    let due = context.bridge().environment().now().after(after).millis();
    let event = &command.event;
    let reminder = Reminder {
        room_id: event.room_id.clone(),
        by: event.sender.clone(),
        due,
        text: what.to_owned(),
        cause,
    };
    if !is_there {
        let key = format!("{due:020} {}", event.event_id);
        context.bridge().store().put(REMINDERS, &key, &reminder).await.map_err(Error::from)?;
    }
    room.notice(format!("I will remind you in {when}.")).await?;
    Ok(())
}

/// Shows the room's reminders.
pub(super) async fn show(_: Command, context: Context) -> HandlerResult {
    let (_, here) = of_room(&context).await?;
    let now = context.bridge().environment().now().millis();
    let line = |(number, (_, reminder)): (usize, &(String, Reminder))| {
        let minutes = reminder.due.saturating_sub(now).div_ceil(60_000);
        format!("{}. in {minutes} min: {}", number + 1, reminder.text)
    };
    let lines: Vec<String> = here.iter().enumerate().map(line).collect();
    let text = if lines.is_empty() { "There are no reminders.".to_owned() } else { lines.join("\n") };
    context.room().notice(text).await?;
    Ok(())
}

/// Forgets a reminder by its place in what [`show`] shows. Which one that was is noted in the same moment: a handler that runs again
/// finds another one in its place.
pub(super) async fn forget(command: Command, context: Context) -> HandlerResult {
    let store = context.bridge().store();
    let asked = command.event.event_id.as_str();
    if let Some(forgotten) = store.get::<Forgotten>(FORGOTTEN, asked).await.map_err(Error::from)? {
        context.room().notice(format!("Forgotten: {}", forgotten.text)).await?;
        return Ok(());
    }
    let (_, here) = of_room(&context).await?;
    let number: Option<usize> = command.words.first().and_then(|word| word.parse().ok());
    let chosen = number.and_then(|number| number.checked_sub(1)).and_then(|index| here.get(index));
    let Some((key, reminder)) = chosen else {
        context.room().notice("Which one? `!meet reminders` shows their numbers.").await?;
        return Ok(());
    };
    let forgotten =
        Forgotten { at: context.bridge().environment().now().millis(), text: reminder.text.clone() };
    let mut batch = Batch::new().delete(REMINDERS, key).put(FORGOTTEN, asked, &forgotten);
    for (old, earlier) in store.list::<Forgotten>(FORGOTTEN).await.map_err(Error::from)? {
        if is_past(earlier.at, DAY, forgotten.at) {
            batch = batch.delete(FORGOTTEN, &old);
        }
    }
    store.apply(batch).await.map_err(Error::from)?;
    context.room().notice(format!("Forgotten: {}", reminder.text)).await?;
    Ok(())
}

/// Whether so much time has passed since then; both in milliseconds since 1970.
fn is_past(then: u64, after: Duration, now: u64) -> bool {
    Duration::from_millis(now.saturating_sub(then)) > after
}

/// Looks for what is due, for ever.
pub(super) fn start(bridge: &Bridge, interval: Duration) {
    let worker = bridge.clone();
    bridge.spawn(async move {
        loop {
            tokio::time::sleep(interval).await;
            if let Err(error) = remind(&worker).await {
                tracing::warn!(%error, "reminders will be tried again");
            }
        }
    });
}

/// Sends what is due. A reminder is deleted when it was sent, or cannot be; a room that cannot be reached now is tried for a day, and
/// holds up no other.
async fn remind(bridge: &Bridge) -> Result<(), Error> {
    let now = bridge.environment().now().millis();
    let mut away = HashSet::new();
    for (key, reminder) in bridge.store().list::<Reminder>(REMINDERS).await? {
        if reminder.due > now {
            break;
        }
        if away.contains(&reminder.room_id) {
            continue;
        }
        let mut content = RoomMessageEventContent::text_plain(format!("{}: {}", reminder.by, reminder.text));
        content.mentions = Some(Mentions::with_user_ids([reminder.by.clone()]));
        let room = bridge.bot().in_room(&reminder.room_id);
        match bridge.once(&reminder.cause, room.send(content)).await {
            Err(Error::ShuttingDown) => return Err(Error::ShuttingDown),
            Err(error) if error.is_temporary() && !is_past(reminder.due, DAY, now) => {
                tracing::warn!(room.id = %reminder.room_id, %error, "a room will be reminded later");
                away.insert(reminder.room_id);
                continue;
            }
            Err(error) => tracing::warn!(room.id = %reminder.room_id, %error, "a room cannot be reminded"),
            Ok(_) => {}
        }
        bridge.store().delete(REMINDERS, &key).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let seconds = |text| duration(text).map(|duration| duration.as_secs());
        assert_eq!(seconds("90s"), Some(90));
        assert_eq!(seconds("1h30m"), Some(5_400));
        assert_eq!(seconds("2d"), Some(172_800));
        for bad in ["", "10", "m", "0s", "367d", "1y", "99999999999999999999s", "-1m"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }
}

//! A bot for meetings: it posts a link to the room's call and rings, keeps minutes of who was there if the room agrees, and reminds.

mod membership;
mod minutes;
mod reminders;
mod ringing;

use std::time::Duration;

use entente_appservice::{
    Command, Commands, Context, Error, HandlerResult,
    message::RoomMessageEventContent,
    ruma::{EventId, RoomVersionId, UserId, events::Mentions},
};
use serde::Deserialize;

use crate::Plan;

/// The options of the meeting bot.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// The link to a room's call. `{room_id}` and `{server_name}` are put in, escaped.
    pub call_link: String,
    /// How long members' clients ring, in seconds, at most 120.
    pub ring_seconds: u64,
    /// How often reminders are looked for, and who is in a call no more without having said so, in seconds.
    pub reminder_seconds: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            call_link: "https://matrix.to/#/{room_id}?via={server_name}".to_owned(),
            ring_seconds: 30,
            reminder_seconds: 5,
        }
    }
}

/// The longest ring.
const LONGEST_RING: u64 = 120;

/// What the meeting bot does.
pub fn plan(options: Options) -> Plan {
    let interval = Duration::from_secs(options.reminder_seconds.max(1));
    let desk = minutes::Desk::default();
    let (of_state, of_sticky, of_time) = (desk.clone(), desk.clone(), desk.clone());
    Plan::new(move |builder| {
        builder
            .commands(commands(options, &desk))
            .on_state(move |event, context| of_state.clone().note_state(event, context))
            .on(move |event, context| of_sticky.clone().note_sticky(event, context))
    })
    .then(move |bridge| reminders::start(bridge, interval))
    .then(move |bridge| of_time.start(bridge, interval))
}

fn commands(options: Options, desk: &minutes::Desk) -> Commands {
    let (switching, objecting) = (desk.clone(), desk.clone());
    Commands::new("!meet")
        .command(
            "start",
            "[topic]",
            "posts a link to the call and rings everybody",
            move |command, context| {
                let options = options.clone();
                async move { start(&options, command, context).await }
            },
        )
        .command("remind", "<when> <what>", "reminds the room, for instance in 1h30m", reminders::add)
        .command("reminders", "", "shows what the room will be reminded of", reminders::show)
        .command("forget", "<number>", "forgets a reminder", reminders::forget)
        .command(
            "minutes",
            "[on|off]",
            "keeps minutes of who is in the call; a moderator may switch it on",
            move |command, context| switching.clone().switch(command, context),
        )
        .command(
            "object",
            "",
            "ends the minutes and deletes what was noted; anybody may",
            move |command, context| objecting.clone().object(command, context),
        )
}

/// Posts the link, and rings for who is there.
async fn start(options: &Options, command: Command, context: Context) -> HandlerResult {
    let room = context.room();
    if !may(&context, &command.event.sender, "notifications.room").await? {
        room.notice("To ring everybody takes the power to notify the room.").await?;
        return Ok(());
    }
    let link = link(&options.call_link, &context);
    let topic = command.text.trim();
    let about = if topic.is_empty() { String::new() } else { format!(" about {topic}") };
    let mut content =
        RoomMessageEventContent::text_plain(format!("{} calls{about}: {link}", command.event.sender));
    content.mentions = Some(Mentions::with_room_mention());
    room.send(content).await?;
    let lifetime = Duration::from_secs(options.ring_seconds.min(LONGEST_RING));
    ringing::ring(&context, lifetime).await?;
    Ok(())
}

fn link(template: &str, context: &Context) -> String {
    let escape = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let settings = context.bridge().settings();
    template
        .replace("{room_id}", &escape(context.room().id().as_str()))
        .replace("{server_name}", &escape(settings.server_name.as_str()))
}

/// The parts of `m.room.power_levels` that are asked for.
#[derive(Deserialize)]
#[serde(default)]
struct Powers {
    users: std::collections::BTreeMap<String, i64>,
    users_default: i64,
    state_default: i64,
    notifications: Notifications,
}

#[derive(Deserialize)]
#[serde(default)]
struct Notifications {
    room: i64,
}

impl Default for Notifications {
    fn default() -> Self {
        Self { room: 50 }
    }
}

impl Default for Powers {
    fn default() -> Self {
        Self {
            users: std::collections::BTreeMap::new(),
            users_default: 0,
            state_default: 50,
            notifications: Notifications::default(),
        }
    }
}

/// What decides whether who made the room has all power.
#[derive(Deserialize)]
struct Creation {
    #[serde(default)]
    room_version: Option<RoomVersionId>,
    #[serde(default)]
    additional_creators: Vec<String>,
}

impl Creation {
    fn privileges_creators(&self) -> bool {
        let rules = self.room_version.as_ref().and_then(RoomVersionId::rules);
        rules.is_some_and(|rules| rules.authorization.explicitly_privilege_room_creators)
    }
}

/// Whether a user has the power that `what` takes in the room of the context: `notifications.room`, or the state's default.
async fn may(context: &Context, user_id: &UserId, what: &str) -> Result<bool, Error> {
    let room = context.room();
    let powers: Powers = room.state("m.room.power_levels", "").await?.unwrap_or_default();
    let needed = if what == "notifications.room" { powers.notifications.room } else { powers.state_default };
    let power = powers.users.get(user_id.as_str()).copied().unwrap_or(powers.users_default);
    if power >= needed {
        return Ok(true);
    }
    let creation: Option<Creation> = room.state("m.room.create", "").await?;
    let Some(creation) = creation.filter(Creation::privileges_creators) else { return Ok(false) };
    Ok(creation.additional_creators.iter().any(|creator| creator == user_id.as_str())
        || room.creator().await? == user_id)
}

/// A cause of sending that nothing else has.
fn cause(kind: &str, event_id: &EventId) -> String {
    format!("{kind} {event_id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn creators_have_all_power_where_the_version_says_so() {
        let privileges = |version: &str| {
            let creation: Creation =
                serde_json::from_value(serde_json::json!({ "room_version": version })).unwrap();
            creation.privileges_creators()
        };
        assert!(!privileges("11"));
        assert!(privileges("12"));
        assert!(!privileges("org.example.unknown"));
    }
}

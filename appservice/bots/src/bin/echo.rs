//! A bot that repeats what it hears: the smallest example, and a way to see whether everything works.

use std::process::ExitCode;

use entente_appservice::{
    Attachment, Commands, Context, Event, HandlerResult,
    message::{MessageType, RoomMessageEventContent},
};
use entente_bots::{NoOptions, Plan};

/// The largest file that is looked at, in bytes.
const MOST_BYTES: usize = 10 * 1024 * 1024;

fn main() -> ExitCode {
    entente_bots::main("echo", |_: NoOptions, settings| {
        let commands = if settings.ghost_prefix.is_empty() { commands() } else { with_shadow(commands()) };
        Ok(Plan::new(move |builder| builder.commands(commands).on(weigh)))
    })
}

fn commands() -> Commands {
    Commands::new("!")
        .command("echo", "<text>", "repeats the text", |command, context| async move {
            let text = if command.text.is_empty() { "…".to_owned() } else { command.text };
            context.room().notice(text).await?;
            Ok(())
        })
        .command("ping", "", "says how long your message took", |command, context| async move {
            let now = context.bridge().environment().now().millis();
            let took = now.saturating_sub(command.event.origin_server_ts);
            let how = if command.event.encryption.is_some() { "encrypted" } else { "in the clear" };
            context.room().notice(format!("It came after {took} ms, {how}.")).await?;
            Ok(())
        })
        .command("file", "<text>", "gives the text back as a file", |command, context| async move {
            let (name, content_type) = ("echo.txt".to_owned(), "text/plain".to_owned());
            context.room().send_file(Attachment { name, content_type, bytes: command.text.into() }).await?;
            Ok(())
        })
}

/// One ghost, however many ask for it.
fn with_shadow(commands: Commands) -> Commands {
    commands.command("shadow", "<text>", "repeats the text by a ghost", |command, context| async move {
        let shadow = context.bridge().user("shadow").named("Echo's shadow");
        shadow.in_room(context.room().id()).notice(command.text).await?;
        Ok(())
    })
}

/// Says how large a file is, after reading it.
async fn weigh(event: Event<RoomMessageEventContent>, context: Context) -> HandlerResult {
    let source = match event.content.msgtype {
        MessageType::File(content) => content.source,
        MessageType::Image(content) => content.source,
        MessageType::Audio(content) => content.source,
        MessageType::Video(content) => content.source,
        _ => return Ok(()),
    };
    let bytes = context.bridge().download(&source, MOST_BYTES).await?;
    context.room().notice(format!("That file has {} bytes.", bytes.len())).await?;
    Ok(())
}

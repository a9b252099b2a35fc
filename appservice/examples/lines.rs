//! A bridge in one file: people who connect with `nc` are ghosts in Matrix rooms, and read what is said there.
//!
//! `cargo run -p entente-appservice --example lines -- https://matrix.example.org example.org` writes `lines-registration.yaml` at first,
//! for the homeserver, and is the bridge from then on. Somebody joins `#lines_tea:example.org`, which makes the room. Then
//! `nc 127.0.0.1 7000` takes `ann tea`, and all further lines are said by Ann in that room.

use std::{error::Error as StdError, path::Path};

use entente_appservice::{
    Batch, Bridge, Builder, Context, Encrypting, Event, HandlerError, HandlerResult, Registration, Settings,
    message::RoomMessageEventContent,
    ruma::{
        OwnedRoomAliasId, RoomId,
        api::client::room::create_room::v3::{Request as CreateRoom, RoomPreset},
    },
};
use entente_environment::Environment;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::broadcast::{self, error::RecvError},
};

/// Where the homeserver reaches the bridge.
const SERVICE: &str = "127.0.0.1:29330";
/// Where people connect.
const LINES: &str = "127.0.0.1:7000";
/// What the names of ghosts and the aliases of rooms begin with.
const PREFIX: &str = "lines_";
/// What one connection may say, in bytes.
const MOST_BYTES: u64 = 1024 * 1024;

/// Something that was said in a channel.
#[derive(Clone)]
struct Line {
    channel: String,
    text: String,
}

type Lines = broadcast::Sender<Line>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(url), Some(server_name)) = (arguments.next(), arguments.next()) else {
        return Err("it takes the homeserver's URL and its name".into());
    };
    let path = Path::new("lines-registration.yaml");
    if !path.exists() {
        let registration =
            Registration::generate("lines", &format!("http://{SERVICE}"), "linesbot", &Environment::system())
                .with_ghosts(PREFIX, &server_name)
                .with_aliases(PREFIX, &server_name);
        return Ok(registration.write_new(path)?);
    }
    let server_name = server_name.as_str().try_into()?;
    let mut settings = Settings::new(url.parse()?, server_name, SERVICE.parse()?, "lines-data".into());
    PREFIX.clone_into(&mut settings.ghost_prefix);
    settings.encryption.who = Encrypting::Everybody;
    let (lines, _) = broadcast::channel(100);
    let heard = lines.clone();
    let bridge = Builder::new(settings, Registration::read(path)?)
        .on(move |event, context| {
            let heard = heard.clone();
            async move { pass_on(&heard, event, &context).await }
        })
        .on_alias_query(open_channel)
        .build()
        .await?;
    let listening = bridge.clone();
    bridge.spawn(async move {
        if let Err(error) = listen(&listening, &lines).await {
            tracing::error!(%error, "nobody can connect");
            listening.shutdown().cancel();
        }
    });
    bridge.run_until_signal().await?;
    Ok(())
}

/// From Matrix to whoever is connected.
async fn pass_on(lines: &Lines, event: Event<RoomMessageEventContent>, context: &Context) -> HandlerResult {
    let channel = context.bridge().store().remote_of("channel", event.room_id.as_str()).await?;
    if let Some(channel) = channel {
        // It is no error that nobody is connected.
        let _ = lines.send(Line { channel, text: format!("{}: {}", event.sender, event.content.body()) });
    }
    Ok(())
}

/// Makes the room of a channel, as somebody looks for it.
async fn open_channel(alias: OwnedRoomAliasId, bridge: Bridge) -> Result<bool, HandlerError> {
    let Some(channel) = alias.alias().strip_prefix(PREFIX) else { return Ok(false) };
    let mut request = CreateRoom::new();
    request.room_alias_name = Some(alias.alias().to_owned());
    request.preset = Some(RoomPreset::PublicChat);
    let room_id = bridge.bot().create_room(request).await?;
    bridge.store().apply(Batch::new().link("channel", channel, room_id.as_str())).await?;
    Ok(true)
}

async fn listen(bridge: &Bridge, lines: &Lines) -> std::io::Result<()> {
    let listener = TcpListener::bind(LINES).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (talking, lines) = (bridge.clone(), lines.clone());
        bridge.spawn(async move {
            if let Err(error) = talk(&talking, stream, &lines).await {
                tracing::warn!(%error, "a connection broke off");
            }
        });
    }
}

/// From one connection to Matrix, and back.
async fn talk(bridge: &Bridge, stream: TcpStream, lines: &Lines) -> HandlerResult {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader.take(MOST_BYTES)).lines();
    let greeting = reader.next_line().await?.unwrap_or_default();
    let (name, channel) = greeting.trim().split_once(' ').unwrap_or((&greeting, ""));
    let Some(room_id) = bridge.store().matrix_of("channel", channel).await? else {
        writer.write_all(b"Say your name and a channel that somebody has joined in Matrix.\n").await?;
        return Ok(());
    };
    let room_id = RoomId::parse(room_id)?;
    let ghost = bridge.user(name).named(name).in_room(&room_id);
    let mut said = lines.subscribe();
    loop {
        tokio::select! {
            line = reader.next_line() => {
                let Some(text) = line? else { return Ok(()) };
                ghost.send(RoomMessageEventContent::text_plain(text)).await?;
            }
            line = said.recv() => match line {
                Ok(line) if line.channel == channel => {
                    writer.write_all(format!("{}\n", line.text).as_bytes()).await?;
                }
                // Who reads slowly misses something.
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(()),
            },
        }
    }
}

//! Bots and bridges, written in an afternoon.
//!
//! An application service is a program that a homeserver tells what happens, and that acts as a user, the bot, or as many users, the
//! ghosts. This crate does what all of them need: it makes the registration file, takes the homeserver's transactions and acknowledges
//! each when it was handled, registers, names and joins users as they act, encrypts, waits when the homeserver is busy, and remembers.
//!
//! ```no_run
//! use entente_appservice::{Builder, Registration, Settings, message::{MessageType, RoomMessageEventContent}};
//!
//! # async fn run(settings: Settings) -> Result<(), Box<dyn std::error::Error>> {
//! let registration = Registration::read("registration.yaml".as_ref())?;
//! let bridge = Builder::new(settings, registration)
//!     .on::<RoomMessageEventContent, _, _>(|event, context| async move {
//!         if let MessageType::Text(text) = &event.content.msgtype {
//!             context.room().notice(&text.body).await?;
//!         }
//!         Ok(())
//!     })
//!     .build()
//!     .await?;
//! bridge.run_until_signal().await?;
//! # Ok(())
//! # }
//! ```
//!
//! A bridge speaks through its ghosts. They are values: nothing has to be prepared.
//!
//! ```no_run
//! # use entente_appservice::{Bridge, Error, ruma::RoomId};
//! # async fn relay(bridge: Bridge, room_id: &RoomId) -> Result<(), Error> {
//! bridge.user("alice").named("Alice (elsewhere)").in_room(room_id).notice("Hello from elsewhere").await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Exactly once
//!
//! A transaction is answered when all of its events were handled, and each event is noted as handled when its handlers are through. If
//! the process dies in between, the homeserver sends the transaction again and the handlers of the one unfinished event run again. What
//! they send goes out under ids that follow from the event, so that the homeserver recognises it: a room sees everything once.
//! What a handler does elsewhere, it has to be able to do twice, and what has no such ids in Matrix too: a room that is made, a file that
//! is uploaded.
//!
//! # Encryption
//!
//! It is on for the bot unless [`EncryptionSettings::who`] says otherwise, and needs nothing of the author: what comes in is decrypted,
//! what goes out is encrypted where the room is. Nothing is ever sent into an encrypted room in the clear.

mod bridge;
mod commands;
mod data;
mod encryption;
mod error;
mod handlers;
mod homeserver;
mod inbox;
mod localpart;
mod media;
mod metrics;
mod questions;
mod registration;
mod room;
mod rooms;
mod server;
mod settings;
mod store;
mod transaction;
mod transaction_ids;
mod user;

pub use matrix_sdk::ruma;
pub use matrix_sdk::ruma::events::room::message;

pub use self::{
    bridge::{Bridge, Builder, RunError},
    commands::{Command, Commands},
    error::Error,
    handlers::{Context, Ephemeral, Event, HandlerError, HandlerResult, StateEvent},
    homeserver::{Homeserver, Identity},
    localpart::ghost_name,
    media::Attachment,
    metrics::Metrics,
    questions::ThirdPartyQuery,
    registration::{Namespace, Namespaces, Registration, RegistrationError},
    room::InRoom,
    settings::{Encrypting, EncryptionSettings, Invites, Settings},
    store::{Batch, MOST_KEY_BYTES, MOST_VALUE_BYTES, Store, StoreError},
    user::User,
};

/// The examples of the manual, which must compile.
#[cfg(doctest)]
#[doc = include_str!("../../docs/bots.md")]
struct Manual;

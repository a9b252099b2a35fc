//! Webhooks in both directions.
//!
//! Incoming: `POST /hooks/{name}` with JSON or text; a template makes a message of it. The caller proves itself with the hook's secret,
//! as a bearer token or as an HMAC over the body. Outgoing: messages of a room are posted to a URL, signed, until they are taken.

mod incoming;
mod outgoing;
mod signature;
mod template;

use std::{net::SocketAddr, sync::Arc};

use entente_appservice::ruma::OwnedRoomId;
use serde::Deserialize;
use url::Url;

use self::outgoing::Outgoing;
pub use self::{signature::sign, template::TemplateError};
use crate::Plan;

/// The shortest secret, in bytes.
const LEAST_SECRET: usize = 16;

/// The options of the webhook bot.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Where incoming hooks are listened for; nowhere without.
    pub listen: Option<SocketAddr>,
    /// What comes in.
    pub incoming: Vec<IncomingOptions>,
    /// What goes out.
    pub outgoing: Vec<OutgoingOptions>,
}

/// A hook that other programs call.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IncomingOptions {
    /// Its name in the URL.
    pub name: String,
    /// The room that hears of it.
    pub room: OwnedRoomId,
    /// What the caller proves itself with; at least 16 bytes.
    pub secret: String,
    /// The message, as a Jinja template over `body`.
    #[serde(default = "whole_body")]
    pub template: String,
    /// The same in HTML, where what is inserted is escaped.
    #[serde(default)]
    pub html_template: Option<String>,
    /// How many calls are taken a minute.
    #[serde(default = "sixty")]
    pub calls_per_minute: u32,
}

/// A room whose messages other programs get.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutgoingOptions {
    /// The room. What is said there leaves it in the clear, also if the room is encrypted.
    pub room: OwnedRoomId,
    /// Where it is posted to.
    pub url: Url,
    /// What each request is signed with; at least 16 bytes.
    pub secret: String,
    /// Only messages that begin so.
    #[serde(default)]
    pub prefix: String,
}

fn whole_body() -> String {
    "{{ body }}".to_owned()
}

fn sixty() -> u32 {
    60
}

impl std::fmt::Debug for IncomingOptions {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("IncomingOptions").field("name", &self.name).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for OutgoingOptions {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("OutgoingOptions").field("room", &self.room).finish_non_exhaustive()
    }
}

/// Why the options cannot be.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// A secret that can be guessed.
    #[error("{0}: a secret has at least {LEAST_SECRET} bytes")]
    WeakSecret(String),
    /// A name that fits in no URL, or that two hooks have.
    #[error("{0}: a hook's name is of a-z, A-Z, 0-9, - and _, and no other hook's")]
    BadName(String),
    /// A template that cannot be understood.
    #[error("{0}: {1}")]
    Template(String, TemplateError),
    /// Something that is not HTTP.
    #[error("{0}: only http and https URLs can be called")]
    BadUrl(Url),
    /// No connections can be made.
    #[error("the HTTP client cannot be made: {0}")]
    Client(reqwest::Error),
}

/// What the webhook bot does.
pub fn plan(options: Options) -> Result<Plan, OptionsError> {
    let Options { listen, incoming, outgoing } = options;
    let hooks = incoming::hooks(incoming)?;
    let outgoing = Arc::new(Outgoing::new(outgoing)?);
    let listener = Arc::clone(&outgoing);
    let plan = Plan::new(move |builder| {
        builder.on(move |event, context| {
            let outgoing = Arc::clone(&listener);
            async move { outgoing.take(event, &context).await }
        })
    });
    let plan = plan.then(move |bridge| outgoing.start(bridge));
    Ok(match listen {
        Some(address) => plan.then(move |bridge| incoming::start(bridge, address, hooks)),
        None => plan,
    })
}

//! Calls: a selective forwarding unit that speaks LiveKit's protocol, so that Element Call and every other LiveKit client can hold
//! calls through it. Media is end-to-end encrypted between the clients; frames are forwarded and never opened.
//!
//! | Module | What |
//! |---|---|
//! | `proto` | LiveKit's messages |
//! | `admission` | whether who has a token may still join: asked of whoever runs the bridge |
//! | `token` | access tokens: who may do what in which room |
//! | `session` | one client's session: how it joins, how its peer connections are negotiated |
//! | `room` | who is in a room, what is published, who subscribes: a state machine without I/O |
//! | `forwarding` | from a publisher's stream to a subscriber's: layers, numbers, bandwidth |
//! | `transport` | peer connections, over `str0m` |
//! | `worker` | the threads: sockets, timers, rooms |
//! | `figures` | how calls fare, for operators |
//! | `livekit` | a LiveKit server elsewhere, which forwards media instead |
//! | `webhooks` | what happens in calls, told to other programs |
//! | `server` | HTTP: signalling over WebSocket, `RoomService` over Twirp; the handle |

mod admission;
mod event;
mod figures;
mod forwarding;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod livekit;
mod proto;
mod room;
mod server;
mod session;
mod settings;
mod token;
mod transport;
mod webhooks;
mod worker;

pub use self::{
    admission::{Admission, Admitted, EveryHolder},
    event::CallEvent,
    figures::{CallFigures, ConnectionFigures, ParticipantFigures, PublishedFigures, SubscribedFigures},
    livekit::{LivekitError, LivekitServer, WebhookError},
    proto::{ParticipantInfo, ParticipantPermission, Room, TrackInfo},
    server::CallBridge,
    settings::{MediaAddress, Settings},
    token::{ApiKey, Claims, TokenError, VideoGrant},
    webhooks::Webhooks,
    worker::{StartError, Stopped},
};

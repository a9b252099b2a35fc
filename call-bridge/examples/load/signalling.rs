//! LiveKit's signalling over a WebSocket, from the client's side.

use std::time::{Duration, Instant};

use base64::{Engine, engine::general_purpose::URL_SAFE};
use futures_util::{SinkExt, StreamExt};
use prost::Message as _;
use tokio::net::TcpStream;
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use crate::{
    Failure,
    proto::{
        ConnectionSettings, JoinRequest, JoinResponse, Ping, SignalRequest, SignalResponse,
        WrappedJoinRequest, signal_request, signal_response,
    },
};

/// How often the bridge hears that the client is there.
const PING_EVERY: Duration = Duration::from_secs(5);

/// A signalling connection.
pub(crate) struct Signalling {
    socket: WebSocketStream<TcpStream>,
    ping_at: Instant,
}

/// How a client joins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Path {
    /// `/rtc/v1`: one peer connection, for which the client makes the offers. It subscribes to nothing.
    Publishing,
    /// `/rtc`: what it subscribes to comes by a peer connection of its own, for which the bridge makes the offers.
    Subscribing,
}

impl Path {
    fn query(self) -> String {
        match self {
            Self::Publishing => {
                let settings = ConnectionSettings { auto_subscribe: false, ..ConnectionSettings::default() };
                let request = JoinRequest { connection_settings: Some(settings), ..JoinRequest::default() }
                    .encode_to_vec();
                let wrapped = WrappedJoinRequest { join_request: request, ..WrappedJoinRequest::default() };
                format!("/rtc/v1?join_request={}", URL_SAFE.encode(wrapped.encode_to_vec()))
            }
            Self::Subscribing => "/rtc?protocol=16&auto_subscribe=1&subscriber_allow_pause=0".to_owned(),
        }
    }
}

impl Signalling {
    /// Joins; answers what the bridge says first.
    pub(crate) async fn join(
        authority: &str,
        path: Path,
        token: &str,
        now: Instant,
    ) -> Result<(Self, JoinResponse), Failure> {
        let stream = TcpStream::connect(authority).await?;
        stream.set_nodelay(true)?;
        let url = format!("ws://{authority}{}&access_token={token}", path.query());
        let (socket, _) = client_async(url, stream).await?;
        let mut signalling = Self { socket, ping_at: now + PING_EVERY };
        match signalling.hear().await? {
            signal_response::Message::Join(response) => Ok((signalling, response)),
            other => Err(format!("not let in: {other:?}").into()),
        }
    }

    /// Says something.
    pub(crate) async fn say(&mut self, message: signal_request::Message) -> Result<(), Failure> {
        let request = SignalRequest { message: Some(message) };
        self.socket.send(Message::Binary(request.encode_to_vec().into())).await?;
        Ok(())
    }

    /// The next thing that the bridge says. Nothing is lost if this is given up while it waits.
    pub(crate) async fn hear(&mut self) -> Result<signal_response::Message, Failure> {
        while let Some(message) = self.socket.next().await {
            if let Message::Binary(bytes) = message?
                && let Some(message) = SignalResponse::decode(bytes)?.message
            {
                return Ok(message);
            }
        }
        Err("the bridge ended the signalling connection".into())
    }

    /// When [`Self::ping`] has something to say.
    pub(crate) fn ping_at(&self) -> Instant {
        self.ping_at
    }

    /// Says that the client is there, if it is time to.
    pub(crate) async fn ping(&mut self, now: Instant) -> Result<(), Failure> {
        if now >= self.ping_at {
            self.ping_at = now + PING_EVERY;
            self.say(signal_request::Message::PingReq(Ping::default())).await?;
        }
        Ok(())
    }
}

//! A participant: its signalling connection and its peer connection, driven together.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use entente_environment::{Clock, Environment};
use rtc::peer_connection::message::TaggedRTCMessage;

use crate::{
    Failure,
    bridge::Bridge,
    peer::{Peer, Purpose},
    proto::{JoinResponse, signal_response::Message},
    signalling::{Path, Signalling},
};

/// How long joining may take, on a machine that has much else to do.
const JOIN_WITHIN: Duration = Duration::from_secs(60);
/// How often time passes at most: finer, the runtime's timers are not.
const TICK: Duration = Duration::from_millis(1);

/// A participant.
pub(crate) struct Client {
    pub(crate) signalling: Signalling,
    pub(crate) peer: Peer,
    clock: Arc<dyn Clock>,
}

/// What a client has to react to.
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and it goes no further")]
pub(crate) enum Happening {
    /// The bridge says something.
    Said(Message),
    /// A packet of media, or of its control protocol.
    Came(TaggedRTCMessage),
    /// Media can flow.
    Connected,
    /// It is as late as was asked for.
    Due,
}

impl Client {
    /// Joins by signalling; nothing is connected yet.
    pub(crate) async fn join(
        bridge: &Bridge,
        environment: &Environment,
        identity: &str,
        path: Path,
        purpose: Purpose,
    ) -> Result<(Self, JoinResponse), Failure> {
        let clock = environment.clock().clone();
        let token = bridge.token(environment, identity);
        let joining = Signalling::join(&bridge.authority, path, &token, clock.monotonic());
        let (signalling, response) = tokio::time::timeout(JOIN_WITHIN, joining).await??;
        let peer = Peer::new(purpose, clock.clone())?;
        Ok((Self { signalling, peer, clock }, response))
    }

    /// When joining has failed that begins now.
    pub(crate) fn connect_by(&self) -> Instant {
        self.clock.monotonic() + JOIN_WITHIN
    }

    /// What happens next, until a time.
    pub(crate) async fn next(&mut self, until: Instant) -> Result<Happening, Failure> {
        let was_connected = self.peer.connected;
        loop {
            if let Some(message) = self.peer.poll()? {
                return Ok(Happening::Came(message));
            }
            if self.peer.connected && !was_connected {
                return Ok(Happening::Connected);
            }
            let now = self.clock.monotonic();
            if now >= until {
                return Ok(Happening::Due);
            }
            self.signalling.ping(now).await?;
            if self.peer.deadline() <= now {
                self.peer.advance()?;
                if let Some(message) = self.peer.poll()? {
                    return Ok(Happening::Came(message));
                }
            }
            let wake_at = self.peer.deadline().min(until).min(self.signalling.ping_at()).max(now + TICK);
            tokio::select! {
                readable = self.peer.readable() => {
                    readable?;
                    self.peer.receive()?;
                }
                message = self.signalling.hear() => return Ok(Happening::Said(message?)),
                () = tokio::time::sleep_until(wake_at.into()) => {}
            }
        }
    }
}

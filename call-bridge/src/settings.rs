use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    time::Duration,
};

use entente_turn::TurnService;

use crate::token::ApiKey;

/// How the call bridge works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who may sign tokens; also signs those that renew a participant's.
    pub api_key: ApiKey,
    /// The port of all media, on all addresses of the machine; 0 lets the system choose.
    pub udp_port: u16,
    /// The TCP port of media, for those who cannot send datagrams; 0 lets the system choose. `None`: there is none.
    pub tcp_port: Option<u16>,
    /// Addresses that clients are told to send media to.
    pub addresses: Vec<MediaAddress>,
    /// Threads that forward media. Each room is on one of them.
    pub workers: NonZeroUsize,
    /// STUN and TURN servers that clients are told of.
    pub turn: Option<TurnService>,
    /// Whether a token with `roomJoin` alone makes a room that is not there.
    pub auto_create: bool,
    /// How long a room waits for its first participant, unless it was made with another time.
    pub empty_timeout: Duration,
    /// How long a room waits after its last participant, unless it was made with another time.
    pub departure_timeout: Duration,
    /// Participants of one room.
    pub maximum_participants: u32,
    /// Rooms at a time.
    pub maximum_rooms: usize,
    /// Participants of one room that one user may be, if their tokens name it: identities and rooms are free to choose.
    pub maximum_of_user_in_room: usize,
    /// The same in all rooms of a worker together.
    pub maximum_of_user: usize,
    /// How long a participant is kept whose connections are gone, so that it can come back.
    pub resume_within: Duration,
    /// How long the tokens are valid by which participants come back.
    pub token_lifetime: Duration,
}

impl Settings {
    /// The usual ones.
    pub fn new(api_key: ApiKey, udp_port: u16, addresses: Vec<MediaAddress>) -> Self {
        Self {
            api_key,
            udp_port,
            tcp_port: None,
            addresses,
            workers: NonZeroUsize::MIN,
            turn: None,
            auto_create: true,
            empty_timeout: Duration::from_secs(300),
            departure_timeout: Duration::from_secs(20),
            maximum_participants: 500,
            maximum_rooms: 10_000,
            maximum_of_user_in_room: 16,
            maximum_of_user: 64,
            resume_within: Duration::from_secs(10),
            token_lifetime: Duration::from_secs(600),
        }
    }
}

/// An address at which media is received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediaAddress {
    /// Of this machine.
    pub local: IpAddr,
    /// As clients see it: another one if the network translates addresses one to one.
    pub advertised: IpAddr,
}

impl From<IpAddr> for MediaAddress {
    fn from(address: IpAddr) -> Self {
        Self { local: address, advertised: address }
    }
}

impl MediaAddress {
    pub(crate) fn candidate(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.advertised, port)
    }
}

use std::{net::SocketAddr, sync::OnceLock, time::Duration};

use entente_environment::Randomness;

use super::Time;
use crate::transport::{Certificate, MediaKind, Mid, OfferChanges, Output, Peer, PeerSettings, Transport};

static CERTIFICATE: OnceLock<Option<Certificate>> = OnceLock::new();
const PREFIX: &str = "0000";
/// What a peer connection may want done at once.
const MOST_OUTPUTS: usize = 1_000;

/// A peer connection at the other end of which is a stranger.
pub struct PeerConnection {
    peer: Peer,
    time: Time,
}

impl PeerConnection {
    /// One that nobody has connected to yet; `None` if the cryptographic library makes no certificate.
    pub fn new() -> Option<Self> {
        let certificate = CERTIFICATE.get_or_init(Certificate::generate).as_ref()?;
        let addresses = [SocketAddr::from(([203, 0, 113, 7], 7_882))];
        let randomness = Randomness::from_seed(7);
        let settings = PeerSettings { certificate, addresses: &addresses, prefix: PREFIX, randomness };
        let time = Time::new();
        let mut peer = Self { peer: Peer::new(&settings, time.at()), time };
        peer.settle();
        Some(peer)
    }

    /// The stranger offers a session; answers whether it was taken.
    pub fn answer(&mut self, offer: &str) -> bool {
        let answered = self.peer.answer(offer).is_ok();
        self.settle();
        answered
    }

    /// We offer a session, with so many sections more.
    pub fn offer(&mut self, audio: u8, video: u8, stop: u8, channels: bool, restart: bool) {
        let add = |kind, count: u8| std::iter::repeat_n(kind, usize::from(count % 4));
        let changes = OfferChanges {
            add: add(MediaKind::Audio, audio).chain(add(MediaKind::Video, video)).collect(),
            start: Vec::new(),
            stop: vec![Mid::from(stop.to_string().as_str())],
            channels,
            restart,
        };
        self.peer.offer(&changes);
        self.settle();
    }

    /// The stranger answers; says whether that was taken.
    pub fn accept_answer(&mut self, answer: &str) -> bool {
        let accepted = self.peer.accept_answer(answer).is_ok();
        self.settle();
        accepted
    }

    /// The stranger sends a datagram.
    pub fn receive(&mut self, datagram: &[u8]) {
        let (source, destination) = (([192, 0, 2, 9], 5_000).into(), ([203, 0, 113, 7], 7_882).into());
        self.peer.receive(self.time.at(), source, destination, datagram);
        self.settle();
    }

    /// Lets time pass.
    pub fn pass(&mut self, duration: Duration) {
        self.time.pass(duration);
        self.peer.advance(self.time.at());
        self.settle();
    }

    fn settle(&mut self) {
        assert!(self.peer.user_names().all(|name| name.starts_with(PREFIX)), "datagrams would go astray");
        for _ in 0..MOST_OUTPUTS {
            if let Output::Wait(_) = self.peer.poll() {
                return;
            }
        }
        panic!("the peer connection does not come to rest");
    }
}

//! What is private here and reads what clients and peers send, for the fuzz targets in `tests/fuzz`. Only with the feature `fuzzing`.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use entente_environment::Timestamp;
use turn_server_proto::types::{
    Instant,
    stun::{
        attribute::{
            AttributeType, Fingerprint, MessageIntegrity, MessageIntegritySha256, Nonce, RawAttribute, Realm,
            Username,
        },
        message::{
            IntegrityAlgorithm, LongTermKeyCredentials, Message, MessageClass, MessageIntegrityCredentials,
            MessageType, MessageWrite, MessageWriteExt, MessageWriteVec, Method, TransactionId,
        },
        prelude::AttributeStaticType,
    },
};

use crate::{
    PeerPolicy, RelayAddress, TurnService, framing,
    policy::{Peers, Relays},
    quota::Quota,
    session::{Outgoing, Rules, Session, Step},
};

const REALM: &str = "example.org";
const SECRET: &str = "secret";
/// Messages that one thing may cause.
const MOST_STEPS: usize = 100;

/// A client of a server that has a media port and one private range, with good credentials.
pub struct Client {
    session: Session,
    rules: Arc<Rules>,
    username: String,
    key: MessageIntegrityCredentials,
    nonce: Option<String>,
    time: Timestamp,
    now: Instant,
    transactions: u128,
    relays: Vec<SocketAddr>,
    next_port: u16,
}

impl Default for Client {
    fn default() -> Self {
        let time = Timestamp(1_000_000);
        let policy = PeerPolicy {
            media_port: Some(7_882),
            allowed: Vec::new(),
            denied: Vec::new(),
            is_private: |address| match address {
                IpAddr::V4(address) => address.is_private() || address.is_loopback(),
                IpAddr::V6(address) => address.is_loopback() || address.is_unique_local(),
            },
        };
        let own = RelayAddress { local: [192, 168, 0, 2].into(), advertised: [203, 0, 113, 7].into() };
        let relays = Relays::default();
        let peers = Peers { policy, own: vec![own], relay_ports: 50_000..=50_100, relays };
        let rules = Rules { realm: REALM.to_owned(), secret: SECRET.to_owned(), peers, quota: Quota::new(4) };
        let rules = Arc::new(rules);
        let held =
            TurnService::new(Vec::new(), SECRET, Duration::from_secs(3_600)).credentials("alice", time);
        let key = LongTermKeyCredentials::new(held.username.clone(), held.password, REALM.to_owned());
        let session = Session::new(
            Arc::clone(&rules),
            ([192, 0, 2, 9], 1_024).into(),
            ([192, 168, 0, 2], 3_478).into(),
        );
        Self {
            session,
            rules,
            username: held.username,
            key: key.into(),
            nonce: None,
            time,
            now: Instant::ZERO,
            transactions: 0,
            relays: Vec::new(),
            next_port: 50_000,
        }
    }
}

impl Client {
    /// Sends whatever it likes.
    pub fn send(&mut self, datagram: &[u8]) {
        self.receive(datagram);
        self.settle();
    }

    /// Sends a message with these attributes that shows who it is from.
    pub fn send_signed(&mut self, class: u8, method: u16, attributes: &[(u16, Vec<u8>)]) {
        let class = match class % 4 {
            0 => MessageClass::Indication,
            1 => MessageClass::Success,
            _ => MessageClass::Request,
        };
        self.transactions += 1;
        let kind = MessageType::from_class_method(class, Method::new(method % 0x1000));
        let transaction = TransactionId::from(self.transactions);
        let mut message = Message::builder(kind, transaction, MessageWriteVec::new());
        for (kind, value) in attributes {
            // These are added by other means, and only last.
            if [MessageIntegrity::TYPE, MessageIntegritySha256::TYPE, Fingerprint::TYPE]
                .contains(&AttributeType::new(*kind))
            {
                continue;
            }
            // What does not fit is left out.
            let _ = message.add_attribute(&RawAttribute::new(AttributeType::new(*kind), value));
        }
        if self.sign(&mut message).is_some() {
            self.send(&message.finish());
        }
    }

    fn sign(&self, message: &mut MessageWriteVec) -> Option<()> {
        let Some(nonce) = &self.nonce else { return Some(()) };
        message.add_attribute(&Username::new(&self.username).ok()?).ok()?;
        message.add_attribute(&Realm::new(REALM).ok()?).ok()?;
        message.add_attribute(&Nonce::new(nonce).ok()?).ok()?;
        message.add_message_integrity(&self.key, IntegrityAlgorithm::Sha1).ok()
    }

    /// A peer sends something to a relayed address of the client, if it has one.
    pub fn send_from_peer(&mut self, peer: SocketAddr, data: &[u8]) {
        if let Some(relay) = self.relays.last().copied() {
            self.session.receive_from_peer(relay, peer, data, self.now);
            self.settle();
        }
    }

    /// Lets time pass.
    pub fn pass(&mut self, duration: Duration) {
        self.now += duration;
        self.time = self.time.after(duration);
        self.settle();
    }

    fn receive(&mut self, datagram: &[u8]) {
        match self.session.receive(datagram, self.time, self.now) {
            Some(Outgoing::ToClient(answer)) => {
                let answer = answer.into_owned();
                self.hear(&answer);
            }
            Some(Outgoing::ToPeer { relay, peer, .. }) => {
                assert!(self.rules.peers.may_be(peer), "relayed to {peer}");
                assert!(self.relays.contains(&relay), "relayed from {relay}");
            }
            None => {}
        }
    }

    fn hear(&mut self, answer: &[u8]) {
        let Ok(answer) = Message::from_bytes(answer) else { return };
        if let Ok(nonce) = answer.attribute::<Nonce>() {
            self.nonce = Some(nonce.nonce().to_owned());
        }
    }

    /// Does what the session wants done.
    fn settle(&mut self) {
        for _ in 0..MOST_STEPS {
            match self.session.step(self.now) {
                Step::Allocate(family) => {
                    let relay = SocketAddr::from(([203, 0, 113, 7], self.next_port));
                    self.next_port = 50_000 + (self.next_port + 1) % 100;
                    self.relays.push(relay);
                    self.session.allocated(family, Ok(relay), self.now);
                }
                Step::Release(relay) => self.relays.retain(|other| *other != relay),
                Step::Wait(_) => break,
            }
        }
        for _ in 0..MOST_STEPS {
            let Some(message) = self.session.next_message(self.now) else { return };
            self.hear(&message);
        }
    }
}

/// Takes a stream that comes in pieces of at most `piece` bytes apart; `None` from where on it carries something else.
pub fn messages(stream: &[u8], piece: usize) -> (Vec<Vec<u8>>, bool) {
    let mut buffer = BytesMut::new();
    let mut found = Vec::new();
    for piece in stream.chunks(piece.max(1)) {
        buffer.extend_from_slice(piece);
        loop {
            match framing::split(&mut buffer) {
                Ok(Some(message)) => found.push(message.to_vec()),
                Ok(None) => break,
                Err(_) => return (found, false),
            }
        }
    }
    (found, true)
}

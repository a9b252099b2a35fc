use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    hash::Hash,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use entente_environment::Timestamp;
use turn_server_proto::{
    api::{DelayedMessageOrChannelSend, SocketAllocateError, Transmit, TurnServerApi, TurnServerPollRet},
    server::TurnServer,
    types::{
        AddressFamily, Instant, TransportType,
        attribute::XorPeerAddress,
        message::{ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION},
        prelude::DelayedTransmitBuild,
        stun::{
            attribute::{ErrorCode, Username, XorMappedAddress},
            message::{
                BINDING, IntegrityAlgorithm, LongTermKeyCredentials, Message, MessageClass,
                MessageIntegrityCredentials, MessageWrite, MessageWriteExt, MessageWriteVec, TransactionId,
            },
            prelude::{Attribute, AttributeFromRaw, AttributeStaticType},
        },
    },
};

use crate::{credentials, framing, policy::Peers, quota::Quota};

/// Peers that one message may name.
const MOST_PEERS_AT_ONCE: usize = 16;
/// Addresses to which a client may have permission at a time, and peers to which it may have channels.
const MOST_PEERS: usize = 128;
/// For how long they are had (RFC 8656, sections 9 and 12).
const PERMISSION_LASTS: Duration = Duration::from_secs(300);
const CHANNEL_LASTS: Duration = Duration::from_secs(600);

/// What all sessions have in common.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) realm: String,
    pub(crate) secret: String,
    pub(crate) peers: Peers,
    pub(crate) quota: Quota,
}

/// One client's side of the protocol. It is given what arrives, and says what is to be done.
#[derive(Debug)]
pub(crate) struct Session {
    rules: Arc<Rules>,
    client: SocketAddr,
    server: SocketAddr,
    protocol: TurnServer,
    user: Option<User>,
    /// The allocation that is being made or was made last, and its answer: a client that has not heard it asks again.
    allocation: Option<(TransactionId, Option<Vec<u8>>)>,
    permissions: Granted<IpAddr>,
    channels: Granted<SocketAddr>,
}

/// What a client was granted, and until when. The protocol searches it from one end to the other for each packet, so it must be short.
#[derive(Debug)]
struct Granted<T> {
    ends: HashMap<T, Instant>,
    lasts: Duration,
}

impl<T: Eq + Hash + Copy> Granted<T> {
    fn new(lasts: Duration) -> Self {
        Self { ends: HashMap::new(), lasts }
    }

    /// Grants all of these, anew or for longer, unless it would be too much.
    fn grant(&mut self, wanted: &[T], now: Instant) -> bool {
        self.ends.retain(|_, end| *end >= now);
        let new: HashSet<&T> = wanted.iter().filter(|one| !self.ends.contains_key(*one)).collect();
        if self.ends.len() + new.len() > MOST_PEERS {
            return false;
        }
        self.ends.extend(wanted.iter().map(|one| (*one, now + self.lasts)));
        true
    }
}

/// Who has shown that they know their password.
#[derive(Debug)]
struct User {
    username: String,
    name: Arc<str>,
    key: MessageIntegrityCredentials,
}

/// What goes out at once.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outgoing<'a> {
    /// To the client.
    ToClient(Cow<'a, [u8]>),
    /// From a relayed address to a peer.
    ToPeer {
        /// The relayed address.
        relay: SocketAddr,
        /// The peer.
        peer: SocketAddr,
        /// What the client sent.
        data: Cow<'a, [u8]>,
    },
}

/// What is to be done next.
#[derive(Debug)]
pub(crate) enum Step {
    /// Make a relayed address and say so in [`Session::allocated`].
    Allocate(AddressFamily),
    /// Close a relayed address.
    Release(SocketAddr),
    /// Nothing until then.
    Wait(Instant),
}

impl Session {
    /// A client at an address, that reached the server at another.
    pub(crate) fn new(rules: Arc<Rules>, client: SocketAddr, server: SocketAddr) -> Self {
        // Streams are taken apart before: to the protocol everything comes in datagrams, and it relays nothing but UDP.
        let protocol = TurnServer::new(TransportType::Udp, server, rules.realm.clone());
        let (permissions, channels) = (Granted::new(PERMISSION_LASTS), Granted::new(CHANNEL_LASTS));
        Self { rules, client, server, protocol, user: None, allocation: None, permissions, channels }
    }

    /// The user, once they have shown who they are.
    pub(crate) fn user(&self) -> Option<&Arc<str>> {
        self.user.as_ref().map(|user| &user.name)
    }

    /// Takes a message or channel data of the client.
    pub(crate) fn receive<'a>(
        &mut self,
        datagram: &'a [u8],
        time: Timestamp,
        now: Instant,
    ) -> Option<Outgoing<'a>> {
        if framing::is_stun(datagram) {
            let message = Message::from_bytes(datagram).ok()?;
            if let Some(answer) = self.answer(&message, time, now) {
                return Some(Outgoing::ToClient(Cow::Owned(answer)));
            }
        }
        let arrived = Transmit::new(datagram, TransportType::Udp, self.client, self.server);
        let sent = self.protocol.recv(arrived, now)?;
        if sent.from == self.server {
            return Some(Outgoing::ToClient(Cow::Owned(sent.data.build())));
        }
        // A permission is for every port of an address; not all of them may be relayed to.
        if !self.rules.peers.may_be(sent.to) {
            return None;
        }
        let data = match sent.data {
            DelayedMessageOrChannelSend::Range(data, range) => Cow::Borrowed(data.get(range)?),
            other => Cow::Owned(other.build()),
        };
        Some(Outgoing::ToPeer { relay: sent.from, peer: sent.to, data })
    }

    /// Takes what a peer sent to a relayed address; answers what the client is told.
    pub(crate) fn receive_from_peer(
        &mut self,
        relay: SocketAddr,
        peer: SocketAddr,
        data: &[u8],
        now: Instant,
    ) -> Option<Vec<u8>> {
        let sent = self.protocol.recv(Transmit::new(data, TransportType::Udp, peer, relay), now)?;
        // Writing into a buffer instead would make it an indication of the client's (turn-types 0.7.3).
        Some(sent.data.build())
    }

    /// Says how [`Step::Allocate`] went.
    pub(crate) fn allocated(
        &mut self,
        family: AddressFamily,
        address: Result<SocketAddr, SocketAllocateError>,
        now: Instant,
    ) {
        let udp = TransportType::Udp;
        self.protocol.allocated_socket(udp, self.server, self.client, udp, family, address, now);
    }

    /// What is to be done next.
    pub(crate) fn step(&mut self, now: Instant) -> Step {
        loop {
            match self.protocol.poll(now) {
                TurnServerPollRet::WaitUntil(at) => return Step::Wait(at),
                TurnServerPollRet::AllocateSocket { family, .. } => return Step::Allocate(family),
                TurnServerPollRet::SocketClose { listen_addr, .. } => return Step::Release(listen_addr),
                // Of TCP connections, which it is not asked to relay.
                TurnServerPollRet::TcpConnect { .. } | TurnServerPollRet::TcpClose { .. } => {}
            }
        }
    }

    /// Something that the client is to be told.
    pub(crate) fn next_message(&mut self, now: Instant) -> Option<Vec<u8>> {
        let message = self.protocol.poll_transmit(now)?.data;
        if let Some((transaction, answer)) = &mut self.allocation
            && Message::from_bytes(&message).is_ok_and(|message| message.transaction_id() == *transaction)
        {
            *answer = Some(message.clone());
        }
        Some(message)
    }

    /// What is answered without the protocol.
    fn answer(&mut self, message: &Message<'_>, time: Timestamp, now: Instant) -> Option<Vec<u8>> {
        if let Some(answer) = binding_answer(message, self.client) {
            return Some(answer);
        }
        self.meet(message, time);
        if !message.has_class(MessageClass::Request) {
            return None;
        }
        let user = self.user.as_ref().filter(|user| message.validate_integrity(&user.key).is_ok())?;
        if message.has_method(CREATE_PERMISSION) || message.has_method(CHANNEL_BIND) {
            let peers = peers(message);
            if peers.len() > MOST_PEERS_AT_ONCE {
                return user.refuse(message, ErrorCode::BAD_REQUEST);
            }
            if peers.iter().any(|peer| !self.rules.peers.may_be_at(peer.ip())) {
                return user.refuse(message, ErrorCode::FORBIDDEN);
            }
            // A channel is a permission as well.
            let addresses: Vec<IpAddr> = peers.iter().map(SocketAddr::ip).collect();
            let granted = self.permissions.grant(&addresses, now)
                && (message.has_method(CREATE_PERMISSION) || self.channels.grant(&peers, now));
            return if granted { None } else { user.refuse(message, ErrorCode::INSUFFICIENT_CAPACITY) };
        }
        if message.has_method(ALLOCATE) {
            return match &self.allocation {
                Some((transaction, answer)) if *transaction == message.transaction_id() => answer.clone(),
                // What a connection was let in by may have ended meanwhile.
                _ if credentials::user(&user.username, time).is_none() => {
                    user.refuse(message, ErrorCode::UNAUTHORIZED)
                }
                _ if self.rules.quota.is_reached(&user.name) => {
                    user.refuse(message, ErrorCode::ALLOCATION_QUOTA_REACHED)
                }
                _ => {
                    self.allocation = Some((message.transaction_id(), None));
                    None
                }
            };
        }
        None
    }

    /// Makes a user known to the protocol if the message shows that they know their password. It never forgets one, so it is told
    /// of nobody else.
    fn meet(&mut self, message: &Message<'_>, time: Timestamp) {
        let Ok(username) = message.attribute::<Username>() else { return };
        let username = username.username();
        if self.user.as_ref().is_some_and(|user| user.username == username) {
            return;
        }
        let Some(name) = credentials::user(username, time) else { return };
        let password = credentials::password(&self.rules.secret, username);
        let key: MessageIntegrityCredentials =
            LongTermKeyCredentials::new(username.to_owned(), password.clone(), self.rules.realm.clone())
                .into();
        if message.validate_integrity(&key).is_ok() {
            self.protocol.add_user(username.to_owned(), password);
            self.user = Some(User { username: username.to_owned(), name: name.into(), key });
        }
    }
}

impl User {
    fn refuse(&self, request: &Message<'_>, code: u16) -> Option<Vec<u8>> {
        let error = ErrorCode::builder(code).build().ok()?;
        let mut answer = Message::builder_error(request, MessageWriteVec::new());
        answer.add_attribute(&error).ok()?;
        answer.add_message_integrity(&self.key, IntegrityAlgorithm::Sha1).ok()?;
        Some(answer.finish())
    }
}

/// The peers that a message names. What cannot be read is left to the protocol, which refuses it.
fn peers(message: &Message<'_>) -> Vec<SocketAddr> {
    let named =
        message.iter_attributes().filter(|(_, attribute)| attribute.get_type() == XorPeerAddress::TYPE);
    named
        .filter_map(|(_, attribute)| XorPeerAddress::from_raw(attribute).ok())
        .map(|peer| peer.addr(message.transaction_id()))
        // One more than is allowed shows that there are too many.
        .take(MOST_PEERS_AT_ONCE + 1)
        .collect()
}

/// What a binding request is answered (RFC 8489, section 12): where it came from.
pub(crate) fn binding_answer(request: &Message<'_>, client: SocketAddr) -> Option<Vec<u8>> {
    if !request.has_method(BINDING) || !request.has_class(MessageClass::Request) {
        return None;
    }
    let mut answer = Message::builder_success(request, MessageWriteVec::new());
    answer.add_attribute(&XorMappedAddress::new(client, request.transaction_id())).ok()?;
    answer.add_fingerprint().ok()?;
    Some(answer.finish())
}

#[cfg(test)]
mod tests {
    use turn_server_proto::types::{
        attribute::{ChannelNumber, Lifetime, RequestedTransport, XorRelayedAddress},
        message::REFRESH,
        stun::attribute::{Nonce, Realm},
    };

    use super::*;
    use crate::{TurnService, policy};

    const NOW: Timestamp = Timestamp(1_000_000);

    struct Client {
        now: Timestamp,
        session: Session,
        rules: Arc<Rules>,
        username: String,
        key: MessageIntegrityCredentials,
        nonce: Option<String>,
    }

    impl Client {
        fn new(quota: usize, lifetime: u64) -> Self {
            let rules = Arc::new(Rules {
                realm: "example.org".to_owned(),
                secret: "secret".to_owned(),
                peers: policy::tests::peers(),
                quota: Quota::new(quota),
            });
            let service = TurnService::new(Vec::new(), "secret", Duration::from_secs(lifetime));
            let held = service.credentials("alice", NOW);
            let key = LongTermKeyCredentials::new(held.username.clone(), held.password, rules.realm.clone());
            let (client, server) = ("192.0.2.9:1".parse().unwrap(), "192.168.0.2:3478".parse().unwrap());
            let session = Session::new(rules.clone(), client, server);
            Self { now: NOW, session, rules, username: held.username, key: key.into(), nonce: None }
        }

        /// Sends a request; answers the code of the error, 0 for a success.
        fn ask(&mut self, mut request: MessageWriteVec) -> u16 {
            if let Some(nonce) = &self.nonce {
                request.add_attribute(&Username::new(&self.username).unwrap()).unwrap();
                request.add_attribute(&Realm::new(&self.rules.realm).unwrap()).unwrap();
                request.add_attribute(&Nonce::new(nonce).unwrap()).unwrap();
                request.add_message_integrity(&self.key, IntegrityAlgorithm::Sha1).unwrap();
            }
            self.send(&request.finish())
        }

        fn send(&mut self, request: &[u8]) -> u16 {
            let now = Instant::ZERO + self.now.since(NOW);
            let mut answer = match self.session.receive(request, self.now, now) {
                Some(Outgoing::ToClient(answer)) => Some(answer.into_owned()),
                Some(Outgoing::ToPeer { .. }) => panic!("relayed"),
                None => None,
            };
            while let Step::Allocate(family) = self.session.step(now) {
                self.session.allocated(family, Ok("203.0.113.7:50000".parse().unwrap()), now);
            }
            answer = answer.or_else(|| self.session.next_message(now));
            let answer = answer.expect("an answer");
            let answer = Message::from_bytes(&answer).unwrap();
            if let Ok(nonce) = answer.attribute::<Nonce>() {
                self.nonce = Some(nonce.nonce().to_owned());
            }
            answer.attribute::<ErrorCode>().map_or(0, |error| error.code())
        }

        fn allocate(&mut self) -> u16 {
            assert_eq!(self.ask(allocation()), ErrorCode::UNAUTHORIZED);
            self.ask(allocation())
        }
    }

    fn allocation() -> MessageWriteVec {
        let mut request = Message::builder_request(ALLOCATE, MessageWriteVec::new());
        request.add_attribute(&RequestedTransport::new(RequestedTransport::UDP)).unwrap();
        request
    }

    fn permission(peer: &str) -> MessageWriteVec {
        permissions([peer.parse().unwrap()])
    }

    fn permissions(peers: impl IntoIterator<Item = SocketAddr>) -> MessageWriteVec {
        let mut request = Message::builder_request(CREATE_PERMISSION, MessageWriteVec::new());
        for peer in peers {
            let peer = XorPeerAddress::new(peer, request.transaction_id());
            request.add_attribute(&peer).unwrap();
        }
        request
    }

    fn channel(number: u16, peer: SocketAddr) -> MessageWriteVec {
        let mut request = Message::builder_request(CHANNEL_BIND, MessageWriteVec::new());
        let peer = XorPeerAddress::new(peer, request.transaction_id());
        request.add_attribute(&peer).unwrap();
        request.add_attribute(&ChannelNumber::new(number)).unwrap();
        request
    }

    /// Peers at different addresses.
    fn strangers(numbers: std::ops::Range<u8>) -> impl Iterator<Item = SocketAddr> {
        numbers.map(|number| SocketAddr::from(([192, 0, 2, number], 5_000)))
    }

    #[test]
    fn peers_are_relayed_to_only_where_the_policy_lets() {
        let mut client = Client::new(1, 60);
        assert_eq!(client.allocate(), 0);
        assert_eq!(client.ask(permission("192.0.2.1:5000")), 0);
        for refused in ["10.2.0.1:5000", "127.0.0.1:8008", "198.51.100.1:1"] {
            assert_eq!(client.ask(permission(refused)), ErrorCode::FORBIDDEN, "{refused}");
        }
        // The server itself: a permission is for an address, and only its media's port is relayed to.
        assert_eq!(client.ask(permission("203.0.113.7:7882")), 0);
        let mut send = |peer: &str| {
            let method = turn_server_proto::types::message::SEND;
            let mut message = Message::builder_indication(method, MessageWriteVec::new());
            let peer = XorPeerAddress::new(peer.parse().unwrap(), message.transaction_id());
            message.add_attribute(&peer).unwrap();
            message.add_attribute(&turn_server_proto::types::attribute::Data::new(b"media")).unwrap();
            let message = message.finish();
            client.session.receive(&message, NOW, Instant::ZERO).map(|sent| match sent {
                Outgoing::ToPeer { relay, peer, data } => (relay.port(), peer.to_string(), data.into_owned()),
                Outgoing::ToClient(_) => panic!("answered"),
            })
        };
        assert_eq!(
            send("203.0.113.7:7882"),
            Some((50_000, "203.0.113.7:7882".to_owned(), b"media".to_vec()))
        );
        assert_eq!(send("203.0.113.7:8008"), None, "not through the relay to what else listens");
        assert_eq!(send("192.0.2.77:1"), None, "no permission");
    }

    #[test]
    fn what_peers_send_reaches_the_client_as_data() {
        let mut client = Client::new(1, 60);
        assert_eq!(client.allocate(), 0);
        assert_eq!(client.ask(permission("192.0.2.1:5000")), 0);
        let (relay, now) = ("203.0.113.7:50000".parse().unwrap(), Instant::ZERO);
        let mut hear =
            |peer: &str| client.session.receive_from_peer(relay, peer.parse().unwrap(), b"media", now);
        let told = hear("192.0.2.1:6000").expect("the permission is for the address");
        let told = Message::from_bytes(&told).unwrap();
        assert!(told.has_method(turn_server_proto::types::message::DATA));
        assert_eq!(hear("192.0.2.2:6000"), None, "no permission");
    }

    #[test]
    fn peers_are_few_at_once_and_not_many_at_a_time() {
        let mut client = Client::new(1, 6_000);
        assert_eq!(client.allocate(), 0);
        assert_eq!(client.ask(permissions(strangers(0..17))), ErrorCode::BAD_REQUEST);
        for first in (0..128).step_by(16) {
            assert_eq!(client.ask(permissions(strangers(first..first + 16))), 0);
        }
        assert_eq!(client.ask(permissions(strangers(128..129))), ErrorCode::INSUFFICIENT_CAPACITY);
        assert_eq!(client.ask(permissions(strangers(0..16))), 0, "for longer");
        // They end by themselves.
        client.now = NOW.after(Duration::from_secs(301));
        assert_eq!(client.ask(permissions(strangers(128..129))), 0);
        let behind = |port: u16| SocketAddr::from(([192, 0, 2, 1], port));
        for number in 0..128 {
            assert_eq!(client.ask(channel(0x4000 + number, behind(1 + number))), 0);
        }
        assert_eq!(client.ask(channel(0x4100, behind(999))), ErrorCode::INSUFFICIENT_CAPACITY);
        assert_eq!(client.ask(channel(0x4000, behind(1))), 0, "for longer");
    }

    #[test]
    fn what_has_ended_allocates_no_more() {
        let mut client = Client::new(9, 60);
        assert_eq!(client.allocate(), 0);
        let mut refresh = Message::builder_request(REFRESH, MessageWriteVec::new());
        refresh.add_attribute(&Lifetime::new(0)).unwrap();
        assert_eq!(client.ask(refresh), 0);
        client.now = NOW.after(Duration::from_secs(61));
        assert_eq!(client.ask(allocation()), ErrorCode::UNAUTHORIZED);
    }

    #[test]
    fn credentials_end_and_cannot_be_made_up() {
        assert_eq!(Client::new(1, 0).allocate(), ErrorCode::UNAUTHORIZED);
        let mut client = Client::new(1, 60);
        client.username = "4000000000:alice".to_owned();
        assert_eq!(client.allocate(), ErrorCode::UNAUTHORIZED);
    }

    #[test]
    fn a_user_has_no_more_than_the_quota() {
        let mut client = Client::new(1, 60);
        let _other = client.rules.quota.take(&"alice".into()).unwrap();
        assert_eq!(client.allocate(), ErrorCode::ALLOCATION_QUOTA_REACHED);
    }

    #[test]
    fn an_answer_that_was_lost_is_given_again() {
        let mut client = Client::new(1, 60);
        assert_eq!(client.ask(allocation()), ErrorCode::UNAUTHORIZED);
        let mut request = allocation();
        request.add_attribute(&Username::new(&client.username).unwrap()).unwrap();
        request.add_attribute(&Realm::new(&client.rules.realm).unwrap()).unwrap();
        request.add_attribute(&Nonce::new(client.nonce.as_deref().unwrap()).unwrap()).unwrap();
        request.add_message_integrity(&client.key, IntegrityAlgorithm::Sha1).unwrap();
        let request = request.finish();
        assert_eq!(client.send(&request), 0);
        assert_eq!(client.send(&request), 0, "not a mismatch");
        let Some(Outgoing::ToClient(answer)) = client.session.receive(&request, NOW, Instant::ZERO) else {
            panic!("no answer");
        };
        assert!(Message::from_bytes(&answer).unwrap().attribute::<XorRelayedAddress>().is_ok());
    }
}

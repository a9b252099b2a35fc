//! The whole server, over sockets of this machine: what it relays, between which addresses, and for whom.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{net::SocketAddr, time::Duration};

use entente_environment::Environment;
use entente_turn::{PeerPolicy, TurnServer, TurnService, TurnSettings};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};
use turn_server_proto::types::{
    AddressFamily,
    attribute::{Data, RequestedAddressFamily, RequestedTransport, XorPeerAddress, XorRelayedAddress},
    message::{ALLOCATE, CREATE_PERMISSION, DATA, SEND},
    stun::{
        attribute::{ErrorCode, Nonce, Realm, Username},
        message::{
            IntegrityAlgorithm, LongTermKeyCredentials, Message, MessageIntegrityCredentials, MessageWrite,
            MessageWriteExt, MessageWriteVec,
        },
    },
};

const SECRET: &str = "a secret of this test, long enough";
const SOON: Duration = Duration::from_secs(10);
/// Nothing is known to be sent after this time.
const QUIET: Duration = Duration::from_millis(300);

/// A server on the loopback addresses of both families, which relays to one port of its own.
async fn server(media_port: u16, max_clients: usize) -> TurnServer {
    let address = |local: &str| {
        let local = local.parse().unwrap();
        entente_turn::RelayAddress { local, advertised: local }
    };
    let settings = TurnSettings {
        addresses: vec![address("127.0.0.1"), address("::1")],
        port: 0,
        relay_ports: 49_152..=65_535,
        realm: "example.org".to_owned(),
        secret: SECRET.to_owned(),
        max_clients,
        max_allocations_per_user: 1,
        max_bytes_per_second: 1_000_000,
        peers: PeerPolicy {
            media_port: Some(media_port),
            allowed: Vec::new(),
            denied: Vec::new(),
            is_private: |_| false,
        },
    };
    TurnServer::start(settings, Environment::system()).await.unwrap()
}

/// How a client reaches the server.
enum Way {
    Datagrams(UdpSocket),
    Stream(TcpStream),
}

struct Client {
    way: Way,
    username: String,
    key: MessageIntegrityCredentials,
    nonce: Option<String>,
}

impl Client {
    async fn by_datagrams(server: SocketAddr, user: &str) -> Self {
        let own = SocketAddr::new(server.ip(), 0);
        let socket = UdpSocket::bind(own).await.unwrap();
        socket.connect(server).await.unwrap();
        Self::new(Way::Datagrams(socket), user)
    }

    async fn by_a_stream(server: SocketAddr, user: &str) -> Self {
        Self::new(Way::Stream(TcpStream::connect(server).await.unwrap()), user)
    }

    fn new(way: Way, user: &str) -> Self {
        let service = TurnService::new(Vec::new(), SECRET, Duration::from_secs(600));
        let held = service.credentials(user, Environment::system().now());
        let key = LongTermKeyCredentials::new(held.username.clone(), held.password, "example.org".to_owned());
        Self { way, username: held.username, key: key.into(), nonce: None }
    }

    async fn send(&mut self, message: &[u8]) {
        match &mut self.way {
            Way::Datagrams(socket) => drop(socket.send(message).await.unwrap()),
            Way::Stream(stream) => stream.write_all(message).await.unwrap(),
        }
    }

    /// The next message; `None` if none comes.
    async fn hear(&mut self, within: Duration) -> Option<Vec<u8>> {
        let heard = async {
            let mut message = vec![0; 2_048];
            match &mut self.way {
                Way::Datagrams(socket) => {
                    let length = socket.recv(&mut message).await.ok()?;
                    message.truncate(length);
                }
                Way::Stream(stream) => {
                    message.truncate(20);
                    stream.read_exact(&mut message).await.ok()?;
                    let length = usize::from(u16::from_be_bytes([message[2], message[3]]));
                    message.resize(20 + length, 0);
                    stream.read_exact(&mut message[20..]).await.ok()?;
                }
            }
            Some(message)
        };
        timeout(within, heard).await.ok().flatten()
    }

    /// Sends a request and answers the answer.
    async fn ask(&mut self, mut request: MessageWriteVec) -> Vec<u8> {
        if let Some(nonce) = &self.nonce {
            request.add_attribute(&Username::new(&self.username).unwrap()).unwrap();
            request.add_attribute(&Realm::new("example.org").unwrap()).unwrap();
            request.add_attribute(&Nonce::new(nonce).unwrap()).unwrap();
            request.add_message_integrity(&self.key, IntegrityAlgorithm::Sha1).unwrap();
        }
        self.send(&request.finish()).await;
        let answer = self.hear(SOON).await.expect("an answer");
        if let Ok(nonce) = Message::from_bytes(&answer).unwrap().attribute::<Nonce>() {
            self.nonce = Some(nonce.nonce().to_owned());
        }
        answer
    }

    /// A relayed address of a family, or the code of the error.
    async fn allocate(&mut self, family: AddressFamily) -> Result<SocketAddr, u16> {
        if self.nonce.is_none() {
            assert_eq!(code(&self.ask(allocation(family)).await), Some(ErrorCode::UNAUTHORIZED));
        }
        let answer = self.ask(allocation(family)).await;
        let message = Message::from_bytes(&answer).unwrap();
        match message.attribute::<XorRelayedAddress>() {
            Ok(address) => Ok(address.addr(message.transaction_id())),
            Err(_) => Err(code(&answer).expect("an address or an error")),
        }
    }

    async fn permit(&mut self, peer: SocketAddr) -> Option<u16> {
        let mut request = Message::builder_request(CREATE_PERMISSION, MessageWriteVec::new());
        let peer = XorPeerAddress::new(peer, request.transaction_id());
        request.add_attribute(&peer).unwrap();
        code(&self.ask(request).await)
    }

    async fn relay(&mut self, peer: SocketAddr, data: &[u8]) {
        let mut message = Message::builder_indication(SEND, MessageWriteVec::new());
        let peer = XorPeerAddress::new(peer, message.transaction_id());
        message.add_attribute(&peer).unwrap();
        message.add_attribute(&Data::new(data)).unwrap();
        let message = message.finish();
        self.send(&message).await;
    }
}

fn allocation(family: AddressFamily) -> MessageWriteVec {
    let mut request = Message::builder_request(ALLOCATE, MessageWriteVec::new());
    request.add_attribute(&RequestedTransport::new(RequestedTransport::UDP)).unwrap();
    request.add_attribute(&RequestedAddressFamily::new(family)).unwrap();
    request
}

fn code(answer: &[u8]) -> Option<u16> {
    Message::from_bytes(answer).unwrap().attribute::<ErrorCode>().ok().map(|error| error.code())
}

fn at(host: &str, port: u16) -> SocketAddr {
    SocketAddr::new(host.parse().unwrap(), port)
}

/// Who is relayed to, on its loopback address of a family.
async fn peer(host: &str) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(at(host, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// Media goes both ways between a client and a peer.
async fn goes_both_ways(mut client: Client, family: AddressFamily, peer: &UdpSocket, address: SocketAddr) {
    let relay = client.allocate(family).await.unwrap();
    assert_eq!(relay.is_ipv6(), address.is_ipv6());
    assert_eq!(client.permit(address).await, None);
    client.relay(address, b"there").await;
    let mut buffer = [0; 64];
    let (length, from) = timeout(SOON, peer.recv_from(&mut buffer)).await.expect("media").unwrap();
    assert_eq!((&buffer[..length], from), (&b"there"[..], relay));
    peer.send_to(b"back", relay).await.unwrap();
    let told = client.hear(SOON).await.expect("media");
    let told = Message::from_bytes(&told).unwrap();
    assert!(told.has_method(DATA));
    assert_eq!(told.attribute::<Data>().unwrap().data(), b"back");
    let sender = told.attribute::<XorPeerAddress>().unwrap().addr(told.transaction_id());
    assert_eq!(sender, address);
}

#[tokio::test]
async fn media_is_relayed_within_and_between_the_families() {
    for (near, far, family) in [
        ("127.0.0.1", "127.0.0.1", AddressFamily::IPV4),
        ("::1", "::1", AddressFamily::IPV6),
        ("127.0.0.1", "::1", AddressFamily::IPV6),
        ("::1", "127.0.0.1", AddressFamily::IPV4),
    ] {
        let (peer, address) = peer(far).await;
        let server = server(address.port(), 16).await;
        let reached = at(near, server.port());
        let client = Client::by_datagrams(reached, "alice").await;
        goes_both_ways(client, family, &peer, address).await;
        let client = Client::by_a_stream(reached, "bob").await;
        goes_both_ways(client, family, &peer, address).await;
        assert_eq!(server.figures().relayed_packets, 4);
    }
}

#[tokio::test]
async fn a_user_has_no_more_than_the_quota_and_another_has_its_own() {
    let server = server(1, 16).await;
    let reached = at("127.0.0.1", server.port());
    let mut first = Client::by_datagrams(reached, "alice").await;
    first.allocate(AddressFamily::IPV4).await.unwrap();
    let mut second = Client::by_datagrams(reached, "alice").await;
    assert_eq!(second.allocate(AddressFamily::IPV4).await, Err(ErrorCode::ALLOCATION_QUOTA_REACHED));
    let mut other = Client::by_a_stream(reached, "bob").await;
    other.allocate(AddressFamily::IPV4).await.unwrap();
    assert_eq!(server.figures().allocations, 2);
}

#[tokio::test]
async fn strangers_take_no_place_from_those_who_show_who_they_are() {
    let server = server(1, 1).await;
    let reached = at("127.0.0.1", server.port());
    let mut strangers = Vec::new();
    for _ in 0..40 {
        let mut stranger = Client::by_datagrams(reached, "alice").await;
        let refused = stranger.ask(allocation(AddressFamily::IPV4)).await;
        assert_eq!(code(&refused), Some(ErrorCode::UNAUTHORIZED));
        strangers.push(stranger);
    }
    let mut alice = Client::by_datagrams(reached, "alice").await;
    alice.allocate(AddressFamily::IPV4).await.unwrap();
}

#[tokio::test]
async fn an_address_has_few_connections_that_do_not_say_whose_they_are() {
    let server = server(1, 100).await;
    let reached = at("127.0.0.1", server.port());
    let mut alice = Client::by_a_stream(reached, "alice").await;
    alice.allocate(AddressFamily::IPV4).await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..32 {
        let mut stranger = Client::by_a_stream(reached, "bob").await;
        // It is served when it is answered.
        stranger.ask(allocation(AddressFamily::IPV4)).await;
        silent.push(stranger);
    }
    let mut refused = Client::by_a_stream(reached, "bob").await;
    let Way::Stream(stream) = &mut refused.way else { panic!("a stream") };
    timeout(SOON, stream.read_u8()).await.expect("it is closed").unwrap_err();
    // Who shows who it is makes room.
    silent[0].allocate(AddressFamily::IPV4).await.unwrap();
    let mut next = Client::by_a_stream(reached, "carol").await;
    next.allocate(AddressFamily::IPV4).await.unwrap();
}

#[tokio::test]
async fn other_protocols_are_hung_up_on() {
    let server = server(1, 16).await;
    let mut stream = TcpStream::connect(at("127.0.0.1", server.port())).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    timeout(SOON, stream.read_u8()).await.expect("it is closed").unwrap_err();
}

#[tokio::test]
async fn a_relay_leads_to_other_relays_and_to_nothing_else_here() {
    let server = server(1, 16).await;
    let reached = at("127.0.0.1", server.port());
    let mut alice = Client::by_datagrams(reached, "alice").await;
    let mut bob = Client::by_datagrams(reached, "bob").await;
    let alices = alice.allocate(AddressFamily::IPV4).await.unwrap();
    let bobs = bob.allocate(AddressFamily::IPV4).await.unwrap();
    assert_eq!((alice.permit(bobs).await, bob.permit(alices).await), (None, None));
    alice.relay(bobs, b"to bob").await;
    let told = bob.hear(SOON).await.expect("media");
    assert_eq!(Message::from_bytes(&told).unwrap().attribute::<Data>().unwrap().data(), b"to bob");
    // Another program, on a port that could be a relay's.
    let other = loop {
        let port = u16::try_from(Environment::system().randomness().below(16_384)).unwrap() + 49_152;
        if let Ok(socket) = UdpSocket::bind(at("127.0.0.1", port)).await {
            break socket;
        }
    };
    alice.relay(other.local_addr().unwrap(), b"a secret request").await;
    let mut buffer = [0; 64];
    assert!(timeout(QUIET, other.recv(&mut buffer)).await.is_err(), "relayed to another program");
}

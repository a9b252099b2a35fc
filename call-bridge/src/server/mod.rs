//! The bridge as a part of a server: its handle, and its HTTP.

mod access;
mod pace;
mod signalling;
mod twirp;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::Request,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use entente_environment::Environment;
use http::{HeaderValue, Method, StatusCode, header};
use tokio::sync::broadcast;

use crate::{
    Admission, CallEvent, CallFigures, Claims, Settings, StartError, Stopped,
    proto::ParticipantInfo,
    worker::{Rooms, Workers},
};

/// A running call bridge. Cheap to clone; the bridge runs until [`CallBridge::stop`] or the end of the process.
#[derive(Clone)]
pub struct CallBridge {
    shared: Arc<Shared>,
}

struct Shared {
    settings: Arc<Settings>,
    environment: Environment,
    admission: Arc<dyn Admission>,
    workers: Workers,
}

impl CallBridge {
    /// Binds the port of media and starts the threads that forward it.
    pub fn start(
        settings: Settings,
        environment: Environment,
        admission: Arc<dyn Admission>,
    ) -> Result<Self, StartError> {
        let settings = Arc::new(settings);
        let workers = Workers::start(&settings, &environment)?;
        tracing::info!(udp.port = workers.port(), workers = settings.workers, "calls are served");
        Ok(Self { shared: Arc::new(Shared { settings, environment, admission, workers }) })
    }

    /// What is served over HTTP, below whatever path it is nested at: `/rtc`, `/rtc/v1`, their `/validate`, `/twirp`, and `/`, which
    /// answers `OK`.
    ///
    /// `/rtc/v1` carries a whole session description in its query: the listener must take request lines of 64 KiB at least.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/", get(async || "OK"))
            .route("/rtc", get(signalling::v0))
            .route("/rtc/v1", get(signalling::v1))
            .route("/rtc/validate", get(signalling::validate_v0))
            .route("/rtc/v1/validate", get(signalling::validate_v1))
            .route("/twirp/livekit.RoomService/{method}", post(twirp::call))
            .layer(middleware::from_fn(allow_every_origin))
            .with_state(self.clone())
    }

    /// The UDP port of all media.
    pub fn udp_port(&self) -> u16 {
        self.shared.workers.port()
    }

    /// The TCP port of media, if there is one.
    pub fn tcp_port(&self) -> Option<u16> {
        self.shared.workers.tcp_port()
    }

    /// Signs a token: who has it may do what it says until `lifetime` is over. Issuer and times are set here.
    pub fn make_token(&self, claims: Claims, lifetime: Duration) -> String {
        self.shared.settings.api_key.sign(claims, self.shared.environment.now(), lifetime)
    }

    /// Throws a participant out; answers whether it was there.
    pub async fn remove_participant(&self, room: &str, identity: &str) -> Result<bool, Stopped> {
        let (name, identity) = (room.to_owned(), identity.to_owned());
        self.shared
            .workers
            .with_room(room, move |rooms, now| {
                rooms.room(&name).is_some_and(|room| room.remove_participant(now, &identity).is_ok())
            })
            .await
    }

    /// Throws all participants out whose tokens name this owner; answers how many there were.
    pub async fn remove_owner(&self, owner: &str) -> Result<usize, Stopped> {
        let owner = owner.to_owned();
        let removed = self.shared.workers.with_all(move |rooms, now| rooms.remove_owner(&owner, now)).await?;
        Ok(removed.into_iter().sum())
    }

    /// Lets all participants of an owner send media and data, or no longer; answers for how many that is new.
    pub async fn permit_owner(&self, owner: &str, may_publish: bool) -> Result<usize, Stopped> {
        let owner = owner.to_owned();
        let permit = move |rooms: &mut Rooms, now| rooms.permit_owner(&owner, may_publish, now);
        Ok(self.shared.workers.with_all(permit).await?.into_iter().sum())
    }

    /// The owners of all participants, each once.
    pub async fn owners(&self) -> Result<BTreeSet<String>, Stopped> {
        let of_workers = self.shared.workers.with_all(|rooms, _| rooms.owners()).await?;
        Ok(of_workers.into_iter().flatten().collect())
    }

    /// Who is in a room; nobody if it is not there.
    pub async fn participants(&self, room: &str) -> Result<Vec<ParticipantInfo>, Stopped> {
        let name = room.to_owned();
        self.shared
            .workers
            .with_room(room, move |rooms, _| {
                rooms.room(&name).map(|room| room.list_participants()).unwrap_or_default()
            })
            .await
    }

    /// How all calls fare.
    pub async fn figures(&self) -> Result<Vec<CallFigures>, Stopped> {
        Ok(self.shared.workers.with_all(|rooms, now| rooms.figures(now)).await?.concat())
    }

    /// What happens from now on. Who lies thousands of events behind loses the oldest, is told so, and should ask for
    /// [`CallBridge::participants`] anew.
    pub fn events(&self) -> broadcast::Receiver<CallEvent> {
        self.shared.workers.events()
    }

    /// Ends all calls; clients are told to come back.
    pub async fn stop(&self) {
        self.shared.workers.stop().await;
    }
}

impl std::fmt::Debug for CallBridge {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("CallBridge").field("udp_port", &self.udp_port()).finish_non_exhaustive()
    }
}

/// Pages from anywhere may call: whoever has a token.
async fn allow_every_origin(request: Request, next: Next) -> Response {
    const ANY: HeaderValue = HeaderValue::from_static("*");
    let mut response = if request.method() == Method::OPTIONS {
        StatusCode::NO_CONTENT.into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
    // `*` does not stand for this one.
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("*, Authorization"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, OPTIONS"));
    response
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use prost::Message;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        time::timeout,
    };

    use super::*;
    use crate::{
        ApiKey, EveryHolder, VideoGrant,
        proto::{JoinRequest, SignalRequest, UpdateSubscription, WrappedJoinRequest, signal_request},
    };

    pub(crate) const SOON: Duration = Duration::from_secs(20);

    /// A bridge, and where its HTTP is.
    pub(crate) async fn served(key: &ApiKey, change: impl FnOnce(&mut Settings)) -> (CallBridge, String) {
        let addresses = vec![IpAddr::from(Ipv4Addr::LOCALHOST).into()];
        let mut settings = Settings::new(key.clone(), 0, addresses);
        change(&mut settings);
        let bridge = CallBridge::start(settings, Environment::system(), Arc::new(EveryHolder)).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = bridge.router();
        tokio::spawn(async move { axum::serve(listener, router).await });
        (bridge, address.to_string())
    }

    /// Joins by a WebSocket that says nothing; `None` if it is not let in.
    pub(crate) async fn join(address: &str, token: &str) -> Option<TcpStream> {
        let (status, stream) = open(address, &format!("/rtc?access_token={token}")).await;
        (status == "101").then_some(stream)
    }

    /// Opens a WebSocket, and answers with which status.
    async fn open(address: &str, path: &str) -> (String, TcpStream) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.unwrap();
        (String::from_utf8_lossy(&status[9..]).into_owned(), stream)
    }

    fn token(bridge: &CallBridge, room: &str, identity: &str) -> String {
        let video = VideoGrant { room: room.to_owned(), room_join: true, ..VideoGrant::default() };
        bridge.make_token(Claims { sub: identity.to_owned(), video, ..Claims::default() }, SOON)
    }

    async fn until_there(bridge: &CallBridge, room: &str) {
        let joined = timeout(SOON, async {
            while bridge.participants(room).await.unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
        });
        joined.await.expect("somebody is in");
    }

    /// A request of ICE with this user name, behind its length.
    fn framed(user_name: &str) -> Vec<u8> {
        let mut value = user_name.as_bytes().to_vec();
        let length = u16::try_from(value.len()).unwrap();
        value.resize(value.len().next_multiple_of(4), 0);
        let mut message = vec![0, 1];
        message.extend(u16::try_from(value.len() + 4).unwrap().to_be_bytes());
        message.extend([0x21, 0x12, 0xA4, 0x42]);
        message.extend([7; 12]);
        message.extend([0, 6]);
        message.extend(length.to_be_bytes());
        message.extend(value);
        [&u16::try_from(message.len()).unwrap().to_be_bytes()[..], &message].concat()
    }

    #[tokio::test]
    async fn connections_for_nobody_are_hung_up_on() {
        let key = ApiKey { name: "key".to_owned(), secret: "a secret of this test".to_owned() };
        let (bridge, _) = served(&key, |settings| settings.tcp_port = Some(0)).await;
        let port = bridge.tcp_port().unwrap();
        let too_long = [0xFF; 64].to_vec();
        for wrong in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), too_long, framed("ffff:a"), framed("0000nobody:a")]
        {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
            stream.write_all(&wrong).await.unwrap();
            let mut rest = Vec::new();
            // Whether it is reset or ended depends on what was not read.
            let _ = timeout(SOON, stream.read_to_end(&mut rest)).await.expect("it is closed");
            assert!(rest.is_empty());
        }
        bridge.stop().await;
    }

    #[tokio::test]
    async fn who_never_reads_is_cut_off() {
        let key = ApiKey { name: "key".to_owned(), secret: "a secret of this test".to_owned() };
        let short = |settings: &mut Settings| settings.resume_within = Duration::from_millis(100);
        let (bridge, address) = served(&key, short).await;
        let _deaf = join(&address, &token(&bridge, "room", "alice")).await.expect("let in");
        until_there(&bridge, "room").await;
        let is_there = async || !bridge.participants("room").await.unwrap().is_empty();
        // More than the network holds, and then more than may wait.
        let text = "x".repeat(60_000);
        let gone = timeout(SOON, async {
            while is_there().await {
                let text = text.clone();
                let tell = move |rooms: &mut Rooms, _| {
                    for _ in 0..100 {
                        let _ = rooms.room("room").map(|room| room.set_metadata(text.clone()));
                    }
                };
                bridge.shared.workers.with_room("room", tell).await.unwrap();
            }
        });
        gone.await.expect("she is out");
        bridge.stop().await;
    }

    #[tokio::test]
    async fn where_no_place_is_left_nobody_is_let_in() {
        let key = ApiKey { name: "key".to_owned(), secret: "a secret of this test".to_owned() };
        let small =
            |settings: &mut Settings| (settings.maximum_participants, settings.maximum_rooms) = (1, 1);
        let (bridge, address) = served(&key, small).await;
        let alice = token(&bridge, "room", "alice");
        let _alice = join(&address, &alice).await.expect("let in");
        until_there(&bridge, "room").await;
        let request = JoinRequest { metadata: "text".to_owned(), ..JoinRequest::default() };
        let wrapped = WrappedJoinRequest { join_request: request.encode_to_vec(), ..Default::default() };
        let wrapped = URL_SAFE_NO_PAD.encode(wrapped.encode_to_vec());
        let status = async |path: &str, token: &str| {
            open(&address, &format!("{path}join_request={wrapped}&access_token={token}")).await.0
        };
        for path in ["/rtc?", "/rtc/validate?", "/rtc/v1?", "/rtc/v1/validate?"] {
            for room in ["room", "another"] {
                assert_eq!(status(path, &token(&bridge, room, "bob")).await, "503", "{path} to {room}");
            }
        }
        assert_eq!(status("/rtc/v1/validate?", &alice).await, "200", "she would take her own place");
        let bob = token(&bridge, "room", "bob");
        assert_eq!(status("/rtc?reconnect=1&sid=PA_a&", &bob).await, "101", "the room tells to begin anew");
        bridge.stop().await;
    }

    #[tokio::test]
    async fn who_says_too_much_at_once_is_hung_up_on() {
        let key = ApiKey { name: "key".to_owned(), secret: "a secret of this test".to_owned() };
        let (bridge, address) = served(&key, |_| {}).await;
        let mut alice = join(&address, &token(&bridge, "room", "alice")).await.expect("let in");
        until_there(&bridge, "room").await;
        let subscription =
            UpdateSubscription { track_sids: vec![String::new(); 5_000], ..Default::default() };
        let request = SignalRequest { message: Some(signal_request::Message::Subscription(subscription)) };
        let request = request.encode_to_vec();
        // One frame, masked with nothing.
        let length = u16::try_from(request.len()).unwrap().to_be_bytes();
        let frame = [&[0x82, 0xfe][..], &length, &[0; 4], &request].concat();
        alice.write_all(&frame).await.unwrap();
        let mut rest = Vec::new();
        let ended = timeout(SOON / 2, alice.read_to_end(&mut rest)).await;
        ended.expect("before silence ends it").unwrap();
        bridge.stop().await;
    }
}

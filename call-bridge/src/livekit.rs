//! A `LiveKit` server elsewhere that forwards media instead of us: its rooms, and who is thrown out of them, by its `RoomService`; and who
//! comes and goes there, by its webhooks.

mod told;

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::Arc,
    time::Duration,
};

use entente_environment::{Environment, Timestamp};
use parking_lot::Mutex;
use reqwest::{Client, StatusCode, redirect};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast;

pub use self::told::WebhookError;
use crate::{ApiKey, CallEvent, Claims, VideoGrant};

/// How long a request may take: somebody waits for a token.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the tokens are valid that requests carry.
const TOKEN_LIFETIME: Duration = Duration::from_secs(60);
/// How long a room waits for its first participant and after its last, in seconds.
const EMPTY_TIMEOUT: u32 = 300;
const DEPARTURE_TIMEOUT: u32 = 20;
/// Tokens that are remembered, to throw out who holds them: of all, and of one owner, who may take as many identities as it likes.
const MOST_SEATS: usize = 100_000;
const MOST_SEATS_OF_OWNER: usize = 64;
/// For how long: nobody is expected to be in one call for longer.
const REMEMBERED_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the tokens let in that a `LiveKit` server gives to who is in a room, some minutes of leeway included.
const RENEWED_FOR: Duration = Duration::from_secs(15 * 60);
/// Webhooks that wait for who listens to them.
const HEARD: usize = 1_024;
/// What an answer may hold, in bytes: some thousand participants.
const LARGEST_ANSWER: usize = 16 * 1_024 * 1_024;

/// Why the server did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LivekitError {
    /// It could not be asked.
    #[error("the LiveKit server cannot be asked: {0}")]
    Request(#[from] reqwest::Error),
    /// It refused.
    #[error("the LiveKit server answers {method} with status {status}")]
    Refused {
        /// What was asked.
        method: &'static str,
        /// Its answer.
        status: StatusCode,
    },
    /// Its answer is none.
    #[error("the LiveKit server answers {0} with what cannot be read")]
    Unreadable(&'static str),
}

/// A place in a call for which a token was signed.
#[derive(Clone, Debug)]
struct Seat {
    room: String,
    identity: String,
    /// What the server was told last; `None` if it goes by the token, of which there may have been several.
    may_publish: Option<bool>,
    /// Until when the token lets in.
    valid_until: Timestamp,
    signed_at: Timestamp,
}

/// A `LiveKit` server. It does not know owners, so it is remembered here whose tokens were signed, as long as the process runs. Cheap to
/// clone.
#[derive(Clone)]
pub struct LivekitServer {
    base_url: Arc<str>,
    key: ApiKey,
    environment: Environment,
    client: Client,
    seats: Arc<Mutex<HashMap<String, Vec<Seat>>>>,
    events: broadcast::Sender<CallEvent>,
}

/// The answer of `ListParticipants`, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
struct Listed {
    #[serde(default)]
    participants: Vec<ListedParticipant>,
}

#[derive(Debug, Deserialize)]
struct ListedParticipant {
    identity: String,
}

impl fmt::Debug for LivekitServer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LivekitServer").field("base_url", &self.base_url).finish_non_exhaustive()
    }
}

impl LivekitServer {
    /// The server to whose signalling `url`, a `ws` or `wss` address, leads.
    pub fn new(url: &str, key: ApiKey, environment: Environment) -> Result<Self, LivekitError> {
        // ws becomes http, wss becomes https.
        let base_url = url.trim_end_matches('/').replacen("ws", "http", 1);
        let client =
            Client::builder().no_proxy().redirect(redirect::Policy::none()).timeout(TIMEOUT).build()?;
        let (events, _) = broadcast::channel(HEARD);
        Ok(Self { base_url: base_url.into(), key, environment, client, seats: Arc::default(), events })
    }

    /// What the server tells by its webhooks from now on: who comes and who goes.
    pub fn events(&self) -> broadcast::Receiver<CallEvent> {
        self.events.subscribe()
    }

    /// Takes a webhook of the server; `authorization` is its header of that name.
    pub fn take_webhook(&self, authorization: &str, body: &[u8]) -> Result<(), WebhookError> {
        if let Some(event) = told::read(&self.key, self.environment.now(), authorization, body)? {
            if let CallEvent::ParticipantJoined { room, participant } = &event {
                self.came(&room.name, &participant.identity);
            }
            // Nobody may listen.
            let _ = self.events.send(event);
        }
        Ok(())
    }

    /// The identities of who is in a room.
    pub async fn participants(&self, room: &str) -> Result<Vec<String>, LivekitError> {
        const METHOD: &str = "ListParticipants";
        let answer = match self.ask(METHOD, admin_of(room), &json!({ "room": room })).await {
            Err(LivekitError::Refused { status: StatusCode::NOT_FOUND, .. }) => return Ok(Vec::new()),
            answer => answer?,
        };
        let listed: Listed = serde_json::from_slice(&answer).map_err(|_| LivekitError::Unreadable(METHOD))?;
        Ok(listed.participants.into_iter().map(|participant| participant.identity).collect())
    }

    /// For whom the token of a place was signed, if that is remembered.
    pub fn owner_of(&self, room: &str, identity: &str) -> Option<String> {
        let seats = self.seats.lock();
        let is_it = |seat: &Seat| seat.room == room && seat.identity == identity;
        let found = seats.iter().find(|(_, of_owner)| of_owner.iter().any(is_it));
        found.map(|(owner, _)| owner.clone())
    }

    /// Makes a room, unless it is there.
    pub async fn create_room(&self, room: &str) -> Result<(), LivekitError> {
        let body =
            json!({ "name": room, "emptyTimeout": EMPTY_TIMEOUT, "departureTimeout": DEPARTURE_TIMEOUT });
        let grant = VideoGrant { room_create: true, ..VideoGrant::default() };
        self.ask("CreateRoom", grant, &body).await.map(drop)
    }

    /// Remembers that a token was signed for an owner, with which it can be in a room until then. Of an owner with too many places the
    /// oldest is given up.
    pub async fn note(
        &self,
        owner: &str,
        room: &str,
        identity: &str,
        may_publish: bool,
        valid_until: Timestamp,
    ) {
        let Some(forgotten) = self.remember(owner, room, identity, may_publish, valid_until) else { return };
        // It cannot be found any more when the owner is to be thrown out.
        let Seat { room, identity, .. } = forgotten;
        if let Err(error) = self.remove_participant(&room, &identity).await {
            tracing::warn!(%error, owner, "somebody may be in a call whom nobody could throw out");
        }
    }

    /// Answers the place that is forgotten for the new one.
    fn remember(
        &self,
        owner: &str,
        room: &str,
        identity: &str,
        may_publish: bool,
        valid_until: Timestamp,
    ) -> Option<Seat> {
        let signed_at = self.environment.now();
        let mut seats = self.seats.lock();
        let is_full = seats.values().map(Vec::len).sum::<usize>() >= MOST_SEATS;
        if is_full && seats.get(owner).is_none_or(|of_owner| of_owner.len() < MOST_SEATS_OF_OWNER) {
            tracing::warn!(owner, "so many are in calls that this one could not be thrown out");
            return None;
        }
        let seats = seats.entry(owner.to_owned()).or_default();
        seats.retain(|seat| {
            let is_old = signed_at >= seat.signed_at.after(REMEMBERED_FOR);
            !is_old && (seat.room != room || seat.identity != identity)
        });
        let (room, identity) = (room.to_owned(), identity.to_owned());
        // The oldest is the first.
        let forgotten = (seats.len() >= MOST_SEATS_OF_OWNER).then(|| seats.remove(0));
        seats.push(Seat { room, identity, may_publish: Some(may_publish), valid_until, signed_at });
        forgotten
    }

    /// Somebody came, with a token that may be older than what the server was told since.
    fn came(&self, room: &str, identity: &str) {
        let mut seats = self.seats.lock();
        let known = seats.values_mut().flatten();
        for seat in known.filter(|seat| seat.room == room && seat.identity == identity) {
            seat.may_publish = None;
        }
    }

    /// Somebody was thrown out, with a token perhaps that is newer than what was signed here.
    fn went(&self, owner: &str, room: &str, identity: &str) {
        let renewed_until = self.environment.now().after(RENEWED_FOR);
        let mut seats = self.seats.lock();
        let of_owner = seats.get_mut(owner).into_iter().flatten();
        for seat in of_owner.filter(|seat| seat.room == room && seat.identity == identity) {
            seat.valid_until = seat.valid_until.max(renewed_until);
        }
    }

    /// The owners of whom somebody may be in a call.
    pub fn owners(&self) -> BTreeSet<String> {
        let now = self.environment.now();
        let mut seats = self.seats.lock();
        seats.retain(|_, seats| {
            seats.retain(|seat| now < seat.signed_at.after(REMEMBERED_FOR));
            !seats.is_empty()
        });
        seats.keys().cloned().collect()
    }

    /// Throws all participants of an owner out; answers how many there were. Their tokens let them in again until their time is over, so
    /// until then they are thrown out whenever this is called.
    pub async fn remove_owner(&self, owner: &str) -> Result<usize, LivekitError> {
        let mut removed = 0;
        for Seat { room, identity, .. } in self.seats_of(owner) {
            if self.remove_participant(&room, &identity).await? {
                removed += 1;
                self.went(owner, &room, &identity);
            }
        }
        let now = self.environment.now();
        let mut seats = self.seats.lock();
        if let Some(of_owner) = seats.get_mut(owner) {
            of_owner.retain(|seat| now < seat.valid_until);
            if of_owner.is_empty() {
                seats.remove(owner);
            }
        }
        Ok(removed)
    }

    /// Lets all participants of an owner send media and data, or no longer; answers for how many that is new.
    pub async fn permit_owner(&self, owner: &str, may_publish: bool) -> Result<usize, LivekitError> {
        let mut changed = 0;
        for seat in self.seats_of(owner).into_iter().filter(|seat| seat.may_publish != Some(may_publish)) {
            let Seat { room, identity, .. } = &seat;
            let body = json!({
                "room": room,
                "identity": identity,
                "permission": {
                    "canSubscribe": true,
                    "canPublish": may_publish,
                    "canPublishData": may_publish,
                    "canUpdateMetadata": true,
                },
            });
            if not_found_is_no(self.ask("UpdateParticipant", admin_of(room), &body).await)? {
                changed += 1;
            }
            let mut seats = self.seats.lock();
            let of_owner = seats.get_mut(owner).into_iter().flatten();
            for known in of_owner.filter(|known| known.room == *room && known.identity == *identity) {
                known.may_publish = Some(may_publish);
            }
        }
        Ok(changed)
    }

    async fn remove_participant(&self, room: &str, identity: &str) -> Result<bool, LivekitError> {
        let body = json!({ "room": room, "identity": identity });
        not_found_is_no(self.ask("RemoveParticipant", admin_of(room), &body).await)
    }

    async fn ask(
        &self,
        method: &'static str,
        video: VideoGrant,
        body: &Value,
    ) -> Result<Vec<u8>, LivekitError> {
        let claims = Claims { video, ..Claims::default() };
        let token = self.key.sign(claims, self.environment.now(), TOKEN_LIFETIME);
        let request = self
            .client
            .post(format!("{}/twirp/livekit.RoomService/{method}", self.base_url))
            .bearer_auth(token)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body.to_string());
        let mut answer = request.send().await?;
        let status = answer.status();
        if !status.is_success() {
            return Err(LivekitError::Refused { method, status });
        }
        let mut read = Vec::new();
        while let Some(part) = answer.chunk().await? {
            if read.len() + part.len() > LARGEST_ANSWER {
                return Err(LivekitError::Unreadable(method));
            }
            read.extend_from_slice(&part);
        }
        Ok(read)
    }

    fn seats_of(&self, owner: &str) -> Vec<Seat> {
        self.seats.lock().get(owner).cloned().unwrap_or_default()
    }
}

fn admin_of(room: &str) -> VideoGrant {
    VideoGrant { room: room.to_owned(), room_admin: true, ..VideoGrant::default() }
}

fn not_found_is_no(outcome: Result<Vec<u8>, LivekitError>) -> Result<bool, LivekitError> {
    match outcome {
        Ok(_) => Ok(true),
        Err(LivekitError::Refused { status: StatusCode::NOT_FOUND, .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt, time::timeout};

    use super::*;
    use crate::server::tests::{SOON, join, served};

    #[tokio::test]
    async fn rooms_are_made_and_owners_thrown_out() {
        let key = ApiKey { name: "key".to_owned(), secret: "a secret of this test".to_owned() };
        let (bridge, address) = served(&key, |settings| settings.auto_create = false).await;
        let environment = Environment::system();
        let livekit =
            LivekitServer::new(&format!("ws://{address}/"), key.clone(), environment.clone()).unwrap();
        let video = VideoGrant { room: "room".to_owned(), room_join: true, ..VideoGrant::default() };
        let claims = Claims { sub: "alice".to_owned(), video, ..Claims::default() };
        let now = environment.now();
        let token = key.sign(claims, now, SOON);
        livekit.note("owner", "room", "alice", true, now).await;
        assert!(join(&address, &token).await.is_none(), "nobody made the room");
        livekit.create_room("room").await.unwrap();
        livekit.create_room("room").await.unwrap();
        let mut alice = join(&address, &token).await.expect("it is there");
        let joined = timeout(SOON, async {
            while bridge.participants("room").await.unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
        });
        joined.await.expect("alice is in");

        assert_eq!(livekit.permit_owner("owner", true).await.unwrap(), 0, "as it is");
        assert_eq!(livekit.permit_owner("owner", false).await.unwrap(), 1);
        let participants = bridge.participants("room").await.unwrap();
        assert!(!participants[0].permission.as_ref().unwrap().can_publish);
        assert_eq!(livekit.participants("room").await.unwrap(), ["alice"]);
        assert_eq!(livekit.participants("another").await.unwrap(), [""; 0]);
        assert_eq!(livekit.owners(), BTreeSet::from(["owner".to_owned()]));
        assert_eq!(livekit.owner_of("room", "alice").as_deref(), Some("owner"));
        assert_eq!(livekit.owner_of("another", "alice"), None);
        // With an old token, for example.
        livekit.came("room", "alice");
        assert_eq!(livekit.permit_owner("owner", false).await.unwrap(), 1, "that is not known any more");
        assert_eq!(livekit.permit_owner("owner", false).await.unwrap(), 0);
        assert_eq!(livekit.remove_owner("another").await.unwrap(), 0);
        assert_eq!(livekit.remove_owner("owner").await.unwrap(), 1);
        let mut rest = Vec::new();
        timeout(SOON, alice.read_to_end(&mut rest)).await.expect("alice is out").unwrap();
        assert_eq!(livekit.remove_owner("owner").await.unwrap(), 0, "nobody there any more");
        assert!(!livekit.owners().is_empty(), "the one that the server gave her still lets in");

        let stranger = ApiKey { secret: "another".to_owned(), ..key };
        let stranger = LivekitServer::new(&format!("ws://{address}"), stranger, environment).unwrap();
        let refused = stranger.create_room("room").await;
        assert!(matches!(refused, Err(LivekitError::Refused { status: StatusCode::UNAUTHORIZED, .. })));
        bridge.stop().await;
    }

    #[test]
    fn owners_are_forgotten_with_their_last_token() {
        let environment = Environment::system();
        let key = ApiKey { name: "key".to_owned(), secret: "secret".to_owned() };
        let livekit = LivekitServer::new("ws://localhost", key, environment.clone()).unwrap();
        livekit.remember("owner", "room", "alice", true, environment.now());
        livekit.remember("owner", "room", "alice", false, environment.now());
        assert_eq!(livekit.seats_of("owner").len(), 1, "the newest of a place");
        assert_eq!(livekit.seats_of("owner")[0].may_publish, Some(false));
    }

    /// Identities are free to choose: nobody fills up with them what is remembered of everybody.
    #[tokio::test]
    async fn an_owner_with_too_many_places_gives_up_the_oldest() {
        let key = ApiKey { name: "key".to_owned(), secret: "a secret of this test".to_owned() };
        let (bridge, address) = served(&key, |_| ()).await;
        let environment = Environment::system();
        let livekit =
            LivekitServer::new(&format!("ws://{address}"), key.clone(), environment.clone()).unwrap();
        let video = VideoGrant { room: "room".to_owned(), room_join: true, ..VideoGrant::default() };
        let token =
            key.sign(Claims { sub: "0".to_owned(), video, ..Claims::default() }, environment.now(), SOON);
        let valid_until = environment.now().after(SOON);
        for identity in 0..MOST_SEATS_OF_OWNER {
            livekit.note("owner", "room", &identity.to_string(), true, valid_until).await;
        }
        let mut first = join(&address, &token).await.expect("let in");
        livekit.note("another", "room", "another", true, valid_until).await;
        livekit.note("owner", "room", "1", true, valid_until).await;
        assert_eq!(livekit.owner_of("room", "0").as_deref(), Some("owner"), "there is a place for it");
        let joined = timeout(SOON, async {
            while bridge.participants("room").await.unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
        });
        joined.await.expect("the first is in");

        livekit.note("owner", "room", "newest", true, valid_until).await;
        let mut rest = Vec::new();
        timeout(SOON, first.read_to_end(&mut rest)).await.expect("it is out").unwrap();
        assert_eq!(livekit.seats_of("owner").len(), MOST_SEATS_OF_OWNER);
        assert_eq!(livekit.owner_of("room", "0"), None);
        for (identity, owner) in [("1", "owner"), ("newest", "owner"), ("another", "another")] {
            assert_eq!(livekit.owner_of("room", identity).as_deref(), Some(owner), "{identity}");
        }
        bridge.stop().await;
    }
}

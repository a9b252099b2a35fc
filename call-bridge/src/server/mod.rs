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
    Admission, CallEvent, Claims, Settings, StartError, Stopped,
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

//! Rooms in which this server is not, as those show them that are in them (S-S API, `GET /hierarchy`).

use std::{sync::Arc, time::Duration};

use entente_environment::{Environment, Timestamp};
use entente_rooms::{RoomElsewhere, RoomsElsewhere};
use futures_util::future::{BoxFuture, FutureExt};
use quick_cache::sync::Cache;
use ruma::{OwnedRoomId, OwnedServerName, RoomId};

use crate::{Client, FederationError};

/// Answers that are remembered.
const MOST_REMEMBERED: usize = 200;
/// For how long: pages of a walk through a space ask for the same rooms.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);
/// The same where nobody could be asked.
const FAILED_FOR: Duration = Duration::from_secs(5);
/// Servers that are asked about one room.
const MOST_SERVERS: usize = 3;
/// How long one of them may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// What all questions of one request may take together.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// A room and who was asked about it: what one server says of a room is not what others say.
type Key = (OwnedRoomId, Vec<OwnedServerName>, bool);

/// Shows rooms of other servers. Cheap to clone.
#[derive(Clone)]
pub struct Previews {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    environment: Environment,
    remembered: Cache<Key, Remembered>,
}

#[derive(Clone)]
struct Remembered {
    answer: Option<Arc<RoomElsewhere>>,
    until: Timestamp,
}

/// The questions of one request.
struct Questions {
    previews: Previews,
    until: Timestamp,
}

impl Previews {
    /// Shows rooms through these requests.
    pub(crate) fn new(client: Client, environment: Environment) -> Self {
        let remembered = Cache::new(MOST_REMEMBERED);
        Self { inner: Arc::new(Inner { client, environment, remembered }) }
    }

    /// For one request: when other servers have taken long enough, none of them is asked any more.
    pub fn for_request(&self) -> impl RoomsElsewhere + use<> {
        let until = self.inner.environment.now().after(REQUEST_TIMEOUT);
        Questions { previews: self.clone(), until }
    }
}

impl RoomsElsewhere for Questions {
    fn room<'a>(
        &'a self,
        room_id: &'a RoomId,
        via: &'a [OwnedServerName],
        suggested_only: bool,
    ) -> BoxFuture<'a, Option<Arc<RoomElsewhere>>> {
        async move {
            let Inner { environment, remembered, .. } = &*self.previews.inner;
            let servers: Vec<OwnedServerName> = via.iter().take(MOST_SERVERS).cloned().collect();
            let key = (room_id.to_owned(), servers, suggested_only);
            let known = remembered.get(&key).filter(|known| known.until > environment.now());
            if let Some(known) = known {
                return known.answer;
            }
            let (mut answer, mut remembered_for) = (None, REMEMBERED_FOR);
            for server in &key.1 {
                let left = self.until.since(environment.now());
                if left.is_zero() {
                    return None;
                }
                match self.ask(server, room_id, suggested_only, left.min(ANSWER_TIMEOUT)).await {
                    Ok(found) => {
                        (answer, remembered_for) = (Some(Arc::new(found)), REMEMBERED_FOR);
                        break;
                    }
                    Err(error) => {
                        tracing::debug!(%server, %room_id, %error, "a server does not show a room");
                        if error.may_pass() {
                            remembered_for = FAILED_FOR;
                        }
                    }
                }
            }
            let until = environment.now().after(remembered_for);
            remembered.insert(key, Remembered { answer: answer.clone(), until });
            answer
        }
        .boxed()
    }
}

impl Questions {
    async fn ask(
        &self,
        server: &OwnedServerName,
        room_id: &RoomId,
        suggested_only: bool,
        timeout: Duration,
    ) -> Result<RoomElsewhere, FederationError> {
        let client = &self.previews.inner.client;
        let answer = client.hierarchy(server, room_id, suggested_only, timeout).await?;
        if answer.room.summary.room_id == room_id {
            Ok(answer)
        } else {
            let reason = String::from("it shows another room");
            Err(FederationError::BadAnswer { server: server.clone(), reason })
        }
    }
}

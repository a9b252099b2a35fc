//! Joining, knocking at and leaving rooms that are on other servers.

use entente_rooms::{
    JoinedRoom, Membership, OutsideMembership, Profile, ROOM_VERSIONS, RoomError, ToldState,
};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId,
    ServerName, UserId, room_version_rules::RoomVersionRules,
};

use crate::{FederationError, MembershipTemplate, SharedRooms, verification::verify_good};

/// Servers that are asked to let somebody in before it is given up.
const MOST_SERVERS: usize = 5;

/// Somebody of this server who wants into a room, or out of it.
#[derive(Clone, Debug)]
pub struct JoinRequest {
    /// Which room.
    pub room_id: OwnedRoomId,
    /// Who.
    pub user_id: OwnedUserId,
    /// How they appear.
    pub profile: Profile,
    /// Why.
    pub reason: Option<String>,
    /// Servers that may be in the room.
    pub servers: Vec<OwnedServerName>,
}

/// A membership event of this server's user, signed.
struct Signed {
    template: MembershipTemplate,
    rules: RoomVersionRules,
    event: CanonicalJsonObject,
    event_id: ruma::OwnedEventId,
}

impl SharedRooms {
    /// Joins a room through other servers; its state is here once this returns.
    pub async fn join(&self, request: &JoinRequest) -> Result<(), FederationError> {
        let _turn = self.inner.asking.take(request.room_id.as_str()).await;
        let mut refusals = Refusals::default();
        for server in self.servers_for(request).await? {
            match self.join_through(&server, request).await {
                Ok(()) => return Ok(()),
                Err(error) => refusals.note(&server, request, error),
            }
        }
        Err(refusals.into_error())
    }

    async fn join_through(&self, server: &ServerName, request: &JoinRequest) -> Result<(), FederationError> {
        let Signed { template, rules, event, event_id } =
            self.signed_membership(server, request, "join").await?;
        let omit_members = self.knew(&request.room_id).await?;
        let peers = &self.inner.peers;
        let answer = peers.send_join(server, &request.room_id, &event_id, &event, omit_members).await?;
        let bad = |reason: &str| FederationError::BadAnswer {
            server: server.to_owned(),
            reason: reason.to_owned(),
        };
        let event = answer.event.unwrap_or(event);
        let join = verify_good(&*self.inner.keys, &rules, vec![event]).await?.pop();
        let join =
            join.filter(|join| join.event_id == event_id).ok_or_else(|| bad("the join is another one"))?;
        let mut events = verify_good(&*self.inner.keys, &rules, answer.state).await?;
        let mut state = events.iter().map(|event| event.event_id.clone()).collect();
        events.extend(verify_good(&*self.inner.keys, &rules, answer.auth_chain).await?);
        if answer.omits_members {
            let whole = self.told_state(server, &request.room_id, &event_id).await?;
            state = whole.state;
            events.extend(whole.events);
        }
        let joined = JoinedRoom {
            room_id: request.room_id.clone(),
            version: template.version,
            told: ToldState { state, events },
            event: join,
        };
        let _turn = self.turn(&request.room_id, server).await;
        match self.inner.rooms.take_over(&joined).await {
            Err(RoomError::BadEvent(reason) | RoomError::Unauthorized(reason)) => Err(bad(&reason)),
            outcome => Ok(outcome?),
        }
    }

    /// Whether this server was in a room once, so that it has most of the memberships in it. Then they need not be told: the ids of the
    /// state are asked for, and what of it is new here. Of a room that is new as a whole everything has to come before anybody can use
    /// it, and comes soonest at once.
    async fn knew(&self, room_id: &RoomId) -> Result<bool, FederationError> {
        match self.inner.rooms.view(room_id).await {
            Ok(view) => Ok(!view.newest_events().await?.is_empty()),
            Err(RoomError::RoomNotFound) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Knocks at a room through other servers.
    pub async fn knock(&self, request: &JoinRequest) -> Result<(), FederationError> {
        let mut refusals = Refusals::default();
        for server in self.servers_for(request).await? {
            match self.knock_through(&server, request).await {
                Ok(()) => return Ok(()),
                Err(error) => refusals.note(&server, request, error),
            }
        }
        Err(refusals.into_error())
    }

    async fn knock_through(&self, server: &ServerName, request: &JoinRequest) -> Result<(), FederationError> {
        let Signed { template, rules, event, event_id } =
            self.signed_membership(server, request, "knock").await?;
        let told = self.inner.peers.send_knock(server, &request.room_id, &event_id, &event).await?;
        let event = verify_good(&*self.inner.keys, &rules, vec![event]).await?.pop();
        let event = event.ok_or_else(|| FederationError::Internal(String::from("an own signature")))?;
        let outside = OutsideMembership {
            room_id: request.room_id.clone(),
            version: template.version,
            user_id: request.user_id.clone(),
            membership: Membership::Knock,
            event,
            told: told.into_iter().map(stripped).collect(),
        };
        Ok(self.inner.rooms.note_outside(&outside).await?)
    }

    /// Declines an invite to a room in which this server is not, or takes back a knock. Where no other server can be told, it is
    /// over for the user all the same.
    pub async fn leave_outside(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        reason: Option<&str>,
    ) -> Result<(), FederationError> {
        let own = self.inner.rooms.own_membership(room_id, user_id).await?;
        let Some((Membership::Invite | Membership::Knock, inviter)) = own else {
            return Err(RoomError::Forbidden("you are not in this room").into());
        };
        let servers = [Some(inviter.server_name()), room_id.server_name()].into_iter().flatten();
        let request = JoinRequest {
            room_id: room_id.to_owned(),
            user_id: user_id.to_owned(),
            profile: Profile::default(),
            reason: reason.map(str::to_owned),
            servers: servers.map(ToOwned::to_owned).collect(),
        };
        for server in self.servers_for(&request).await? {
            match self.leave_through(&server, &request).await {
                Ok(()) => break,
                Err(error) => tracing::info!(%server, %room_id, %error, "a server is not told of a leave"),
            }
        }
        Ok(self.inner.rooms.end_outside(room_id, user_id).await?)
    }

    async fn leave_through(&self, server: &ServerName, request: &JoinRequest) -> Result<(), FederationError> {
        let signed = self.signed_membership(server, request, "leave").await?;
        self.inner.peers.send_leave(server, &request.room_id, &signed.event_id, &signed.event).await
    }

    /// A membership event as a server in the room prepares it, signed.
    async fn signed_membership(
        &self,
        server: &ServerName,
        request: &JoinRequest,
        membership: &str,
    ) -> Result<Signed, FederationError> {
        let JoinRequest { room_id, user_id, .. } = request;
        let mut template = self.inner.peers.make_membership(server, room_id, user_id, membership).await?;
        if !ROOM_VERSIONS.contains(&template.version) {
            return Err(RoomError::UnsupportedRoomVersion(template.version.to_string()).into());
        }
        let rules = template.version.rules();
        let rules = rules.ok_or_else(|| RoomError::UnsupportedRoomVersion(template.version.to_string()))?;
        fill_in(&mut template.event, request, membership);
        let (event, event_id) = self.inner.rooms.sign_template(template.event.clone(), &rules)?;
        Ok(Signed { template, rules, event, event_id })
    }

    /// Servers that may be in the room: those that the user names, whoever invited them, and the room's own.
    async fn servers_for(&self, request: &JoinRequest) -> Result<Vec<OwnedServerName>, FederationError> {
        let mut servers = request.servers.clone();
        if let Some((_, inviter)) =
            self.inner.rooms.own_membership(&request.room_id, &request.user_id).await?
        {
            servers.push(inviter.server_name().to_owned());
        }
        match self.inner.rooms.view(&request.room_id).await {
            Ok(view) => servers.extend(self.servers_to_ask(&view).await?),
            Err(RoomError::RoomNotFound) => {}
            Err(error) => return Err(error.into()),
        }
        servers.extend(request.room_id.server_name().map(ToOwned::to_owned));
        let mut once: Vec<OwnedServerName> = Vec::new();
        for server in servers {
            if server != self.inner.rooms.server_name() && !once.contains(&server) {
                once.push(server);
            }
        }
        once.truncate(MOST_SERVERS);
        Ok(once)
    }
}

/// Why servers did not let somebody in. The first reason that says more than that a server cannot be reached is what the user
/// hears.
#[derive(Default)]
struct Refusals {
    told: Option<FederationError>,
}

impl Refusals {
    fn note(&mut self, server: &ServerName, request: &JoinRequest, error: FederationError) {
        tracing::info!(%server, room_id = %request.room_id, %error, "a server does not let somebody in");
        if self.told.as_ref().is_none_or(|told| !is_refusal(told) && is_refusal(&error)) {
            self.told = Some(error);
        }
    }

    fn into_error(self) -> FederationError {
        self.told.unwrap_or(FederationError::NobodyToAsk)
    }
}

/// Puts into a template what the user's own server says, and nothing that the other one may have slipped in.
fn fill_in(event: &mut CanonicalJsonObject, request: &JoinRequest, membership: &str) {
    let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
    let prepared = event.get("content").and_then(|content| content.as_object());
    let authoriser = prepared.and_then(|content| content.get("join_authorised_via_users_server")).cloned();
    let mut content = CanonicalJsonObject::from([(String::from("membership"), text(membership))]);
    let profile = &request.profile;
    let own = [
        ("displayname", &profile.displayname),
        ("avatar_url", &profile.avatar_url),
        ("reason", &request.reason),
    ];
    for (name, value) in own {
        if let Some(value) = value {
            content.insert(name.to_owned(), text(value));
        }
    }
    if let Some(authoriser) = authoriser.filter(|_| membership == "join") {
        content.insert(String::from("join_authorised_via_users_server"), authoriser);
    }
    event.insert(String::from("content"), CanonicalJsonValue::Object(content));
    event.insert(String::from("type"), text("m.room.member"));
    event.insert(String::from("room_id"), text(request.room_id.as_str()));
    event.insert(String::from("sender"), text(request.user_id.as_str()));
    event.insert(String::from("state_key"), text(request.user_id.as_str()));
}

/// Whether a server answered, and did not merely fail to.
fn is_refusal(error: &FederationError) -> bool {
    matches!(error, FederationError::Status { .. } | FederationError::Room(_))
}

/// What clients are shown of an event of a room in which they are not.
pub(crate) fn stripped(mut event: CanonicalJsonObject) -> CanonicalJsonObject {
    event.retain(|field, _| matches!(field.as_str(), "content" | "sender" | "state_key" | "type"));
    event
}

/// Whether an event is the create event of a room whose id is made from it.
pub(crate) fn is_create_of(room_id: &RoomId, event_id: &EventId) -> bool {
    room_id.as_str().trim_start_matches('!') == event_id.as_str().trim_start_matches('$')
}

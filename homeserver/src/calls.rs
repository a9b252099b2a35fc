//! Calls: from the settings to what serves them, and who is thrown out of them.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    num::{NonZeroU16, NonZeroUsize},
    sync::Arc,
    thread,
    time::Duration,
};

use entente_api::{CallMember, Calls, Leaves, RemoteUsers, RoomMembers, Standing, Witness};
use entente_call_bridge::{
    ApiKey, CallBridge, CallEvent, LivekitError, LivekitServer, MediaAddress, Settings, Stopped, Webhooks,
};
use entente_config::{Config, Sfu};
use entente_environment::Environment;
use entente_federation::Federation;
use entente_rooms::{Change, Event, RoomError, RoomView, Rooms, state::StateRoot};
use entente_storage::{LogEntry, StorageError, Store};
use entente_turn::TurnService;
use ruma::events::TimelineEventType;
use tokio::sync::broadcast::error::RecvError;

use crate::secrets;

/// Records of the log that are read at once.
const MOST_RECORDS: usize = 512;
/// Before the log is followed again after a failure. Who has to leave a call shall do so within a second.
const PAUSE: Duration = Duration::from_millis(200);
/// How often it is looked at whether everybody may still be in their calls: what the operator says of other servers is in no room. At a
/// `LiveKit` server, of which it is not known who is still there, it is about many more.
const LOOK_EVERY: Duration = Duration::from_secs(3);
const LOOK_AT_LIVEKIT_EVERY: Duration = Duration::from_secs(30);

/// How calls are held; `None` if the settings say not at all.
pub(crate) fn open(
    config: &Config,
    environment: &Environment,
    rooms: &Rooms,
    federation: &Federation,
    turn: Option<TurnService>,
) -> Result<Option<Calls>, String> {
    if !config.holds_calls() {
        return Ok(None);
    }
    let base_url = config.public_base_url();
    let settings = &config.calls;
    let members = RoomMembers {
        rooms: rooms.clone(),
        policy: federation.policy.clone(),
        remote_users: match settings.remote_users {
            entente_config::RemoteUsers::Refused => RemoteUsers::Refused,
            entente_config::RemoteUsers::Subscribe => RemoteUsers::Subscribe,
            entente_config::RemoteUsers::Publish => RemoteUsers::Publish,
        },
    };
    if settings.sfu == Sfu::Livekit {
        let (Some(url), Some(secret)) = (&settings.livekit_url, &settings.api_secret) else {
            return Err("calls: a LiveKit server needs calls.livekit_url and calls.api_secret".to_owned());
        };
        let key = ApiKey { name: settings.api_key.clone(), secret: secret.reveal().to_owned() };
        let livekit = LivekitServer::new(url.as_str(), key.clone(), environment.clone())
            .map_err(|error| format!("calls: {error}"))?;
        let witness = Witness::Livekit(livekit.clone());
        // All nodes know the same server: each looks after what was handed over to any of them before it was started.
        let leaves =
            Leaves::new(rooms.clone(), witness, environment.clock().clone(), url.as_str().to_owned());
        return Ok(Some(Calls::elsewhere(base_url.as_str(), key, members, url.as_str(), livekit, leaves)));
    }
    let secret = if let Some(secret) = &settings.api_secret {
        secret.reveal().to_owned()
    } else {
        let path = config.calls_secret_path();
        secrets::kept(&path, environment.randomness())
            .map_err(|error| format!("the secret of calls, {}: {error}", path.display()))?
    };
    let key = ApiKey { name: settings.api_key.clone(), secret };
    let addresses = config.call_addresses().into_iter();
    let addresses: Vec<MediaAddress> =
        addresses.map(|address| media_address(address, settings.external_ip)).collect();
    // No two nodes receive media at the same.
    let keeper = addresses.first().map(|address| format!("{}:{}", address.advertised, settings.udp_port));
    let bridge = Settings {
        workers: workers(settings),
        // Tokens of this server's users say that they may make a room.
        auto_create: false,
        tcp_port: settings.tcp_port.map(NonZeroU16::get),
        turn,
        ..Settings::new(key.clone(), settings.udp_port.get(), addresses)
    };
    let bridge = CallBridge::start(bridge, environment.clone(), Arc::new(members.clone()))
        .map_err(|error| format!("calls: {error}"))?;
    let clock = environment.clock().clone();
    let witness = Witness::Bridge(bridge.clone());
    let leaves = Leaves::new(rooms.clone(), witness, clock, keeper.unwrap_or_default());
    Ok(Some(Calls::embedded(base_url.as_str(), key, members, bridge, leaves)))
}

/// What tells others of calls that are forwarded here; `None` if nobody is to be told.
pub(crate) fn webhooks(
    config: &Config,
    calls: &Calls,
    environment: &Environment,
) -> Result<Option<Webhooks>, String> {
    let urls: Vec<String> = config.calls.webhooks.iter().map(ToString::to_string).collect();
    if urls.is_empty() {
        return Ok(None);
    }
    let webhooks = Webhooks::new(urls, calls.key.clone(), environment.clone());
    webhooks.map(Some).map_err(|error| format!("calls.webhooks: {error}"))
}

pub(crate) fn media_address(local: IpAddr, external: Option<IpAddr>) -> MediaAddress {
    let advertised = external.filter(|external| external.is_ipv4() == local.is_ipv4()).unwrap_or(local);
    MediaAddress { local, advertised }
}

fn workers(settings: &entente_config::Calls) -> NonZeroUsize {
    let wanted = settings.workers.and_then(|count| NonZeroUsize::try_from(count).ok());
    wanted.or_else(|| thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
}

/// Throws those out of calls who are no longer joined to the room, and lets those send media whom the room lets.
#[derive(Clone, Debug)]
pub(crate) struct CallRemovals {
    pub(crate) store: Store,
    pub(crate) members: RoomMembers,
    pub(crate) sfu: Forwarder,
}

/// Where media is forwarded.
#[derive(Clone, Debug)]
pub(crate) enum Forwarder {
    /// Here.
    Bridge(CallBridge),
    /// By a `LiveKit` server.
    Livekit(LivekitServer),
}

impl Forwarder {
    pub(crate) fn of(calls: &Calls) -> Option<Self> {
        let bridge = calls.bridge.clone().map(Self::Bridge);
        bridge.or_else(|| calls.livekit.clone().map(Self::Livekit))
    }

    fn look_every(&self) -> Duration {
        match self {
            Self::Bridge(_) => LOOK_EVERY,
            Self::Livekit(_) => LOOK_AT_LIVEKIT_EVERY,
        }
    }

    async fn owners(&self) -> Result<BTreeSet<String>, RemovalError> {
        match self {
            Self::Bridge(bridge) => Ok(bridge.owners().await?),
            Self::Livekit(livekit) => Ok(livekit.owners()),
        }
    }

    async fn remove_owner(&self, owner: &str) -> Result<usize, RemovalError> {
        match self {
            Self::Bridge(bridge) => Ok(bridge.remove_owner(owner).await?),
            Self::Livekit(livekit) => Ok(livekit.remove_owner(owner).await?),
        }
    }

    async fn permit_owner(&self, owner: &str, may_publish: bool) -> Result<usize, RemovalError> {
        match self {
            Self::Bridge(bridge) => Ok(bridge.permit_owner(owner, may_publish).await?),
            Self::Livekit(livekit) => Ok(livekit.permit_owner(owner, may_publish).await?),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum RemovalError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Room(#[from] RoomError),
    #[error(transparent)]
    Stopped(#[from] Stopped),
    #[error(transparent)]
    Livekit(#[from] LivekitError),
}

impl CallRemovals {
    /// Goes on for as long as it is polled.
    pub(crate) async fn follow(self) {
        tokio::join!(self.follow_log(), self.look_again(), self.follow_arrivals());
    }

    /// Looks at who comes to a `LiveKit` server: it lets in whose token was signed before their membership ended.
    async fn follow_arrivals(&self) {
        let Forwarder::Livekit(livekit) = &self.sfu else { return };
        let mut events = livekit.events();
        loop {
            let (room, identity) = match events.recv().await {
                Ok(CallEvent::ParticipantJoined { room, participant }) => (room.name, participant.identity),
                // Whoever was missed is looked at with all others.
                Ok(_) | Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return,
            };
            let owner = livekit.owner_of(&room, &identity);
            let Some(member) = owner.and_then(|owner| CallMember::from_owner(&owner)) else { continue };
            if let Err(error) = self.look_at(&member).await {
                tracing::warn!(%error, "whether somebody may be in a call could not be looked at");
            }
        }
    }

    async fn look_at(&self, member: &CallMember) -> Result<(), RemovalError> {
        let standing = self.members.standing(member).await?;
        self.apply(member, standing).await
    }

    /// Looks at all who are in calls, again and again.
    async fn look_again(&self) {
        let mut standings = HashMap::new();
        loop {
            tokio::time::sleep(self.sfu.look_every()).await;
            match self.look(&standings).await {
                Ok(seen) => standings = seen,
                Err(error) => tracing::warn!(%error, "who may be in calls could not be looked at"),
            }
        }
    }

    /// Looks at all who are in calls, of whom some had these standings before. Who let or kept somebody from sending for another reason
    /// is not contradicted while the standing is as it was.
    async fn look(
        &self,
        before: &HashMap<String, Standing>,
    ) -> Result<HashMap<String, Standing>, RemovalError> {
        let mut standings = HashMap::new();
        for owner in self.sfu.owners().await? {
            let Some(member) = CallMember::from_owner(&owner) else { continue };
            let standing = self.members.standing(&member).await?;
            let has_changed = before.get(&owner).is_some_and(|before| *before != standing);
            if has_changed || standing == Standing::Outside {
                self.apply(&member, standing).await?;
            }
            standings.insert(owner, standing);
        }
        Ok(standings)
    }

    /// Follows the log from now on. No cursor is stored: the calls of this process began with it, and whoever comes back to one is
    /// asked again.
    async fn follow_log(&self) {
        let mut position = self.store.published();
        let mut watch = self.store.watch();
        let mut states = HashMap::new();
        loop {
            let followed = async {
                watch.beyond(&position).await?;
                let (records, reached) = self.store.read_log(&position, MOST_RECORDS).await?;
                let changes: Vec<Change> =
                    records.iter().flat_map(|record| &record.entries).filter_map(change).collect();
                if !changes.is_empty() {
                    // Most servers hold no call most of the time.
                    let owners = self.sfu.owners().await?;
                    let present: Vec<_> =
                        owners.iter().filter_map(|owner| CallMember::from_owner(owner)).collect();
                    if present.is_empty() {
                        states.clear();
                    }
                    for change in changes.iter().filter(|_| !present.is_empty()) {
                        match self.hear(change, &present, &mut states).await {
                            // It was purged meanwhile.
                            Err(RemovalError::Room(RoomError::RoomNotFound)) => {}
                            heard => heard?,
                        }
                    }
                }
                Ok::<_, RemovalError>(reached)
            };
            match followed.await {
                Ok(reached) => position = reached,
                Err(error) => {
                    tracing::warn!(%error, "following the log for calls failed and begins again");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Looks at those in a call whom a change of their room concerns. That is seen by the room's state, which the resolution of forks
    /// changes as well; `states` are those in which rooms, by their numbers, were looked at last.
    async fn hear(
        &self,
        change: &Change,
        present: &[CallMember],
        states: &mut HashMap<u64, StateRoot>,
    ) -> Result<(), RemovalError> {
        let (Change::Event { room, .. } | Change::Membership { room, .. }) = change else { return Ok(()) };
        let view = self.members.rooms.view_of(*room).await?;
        let here: Vec<&CallMember> =
            present.iter().filter(|member| member.room_id == view.room.room_id).collect();
        if here.is_empty() {
            states.remove(room);
            return Ok(());
        }
        let state = view.current_state().await?;
        if let Some(before) = states.get(room) {
            let concerns = Concerns::of(&view, *before, state).await?;
            for member in here.into_iter().filter(|member| concerns.is_about(member)) {
                self.look_at(member).await?;
            }
        } else {
            // What was before is not known. Who may still be there is left alone, unless the rules are new.
            let has_new_rules = self.has_new_rules(change).await?;
            for member in here {
                let standing = self.members.standing(member).await?;
                if has_new_rules || standing == Standing::Outside {
                    self.apply(member, standing).await?;
                }
            }
        }
        states.insert(*room, state);
        Ok(())
    }

    async fn has_new_rules(&self, change: &Change) -> Result<bool, RemovalError> {
        let Change::Event { room, number, .. } = change else { return Ok(false) };
        let found = self.members.rooms.event_by_number(*room, *number).await?;
        Ok(found.is_some_and(|(_, event)| is_rule(&event)))
    }

    async fn apply(&self, member: &CallMember, standing: Standing) -> Result<(), RemovalError> {
        if standing == Standing::Outside {
            return self.remove(member).await;
        }
        let may_publish = standing == Standing::Publisher;
        if self.sfu.permit_owner(&member.to_owner(), may_publish).await? > 0 {
            let CallMember { room_id, user_id } = member;
            tracing::info!(room.id = %room_id, user.id = %user_id, may_publish, "the room's rules for its call changed");
        }
        Ok(())
    }

    async fn remove(&self, member: &CallMember) -> Result<(), RemovalError> {
        let removed = self.sfu.remove_owner(&member.to_owner()).await?;
        if removed > 0 {
            let CallMember { room_id, user_id } = member;
            tracing::info!(room.id = %room_id, user.id = %user_id, removed, "no longer joined, so out of the call");
        }
        Ok(())
    }
}

/// What a record tells of rooms that matters to calls.
fn change(entry: &LogEntry) -> Option<Change> {
    if entry.topic != entente_rooms::TOPIC {
        return None;
    }
    // What cannot be read is told by who follows the log for /sync.
    let change = Change::from_payload(&entry.payload).ok()?;
    matches!(change, Change::Event { .. } | Change::Membership { .. }).then_some(change)
}

/// Whom the difference of two states of a room concerns.
#[derive(Debug)]
enum Concerns {
    Everybody,
    Users(BTreeSet<String>),
}

impl Concerns {
    async fn of(view: &RoomView, before: StateRoot, after: StateRoot) -> Result<Self, RoomError> {
        let mut users = BTreeSet::new();
        // What is gone as well as what is new.
        for (from, to) in [(before, after), (after, before)] {
            for event in view.state_changes(from, to).await? {
                if is_rule(&event) {
                    return Ok(Self::Everybody);
                }
                if event.event_type == TimelineEventType::RoomMember {
                    users.extend(event.state_key.clone());
                }
            }
        }
        Ok(Self::Users(users))
    }

    fn is_about(&self, member: &CallMember) -> bool {
        match self {
            Self::Everybody => true,
            Self::Users(users) => users.contains(member.user_id.as_str()),
        }
    }
}

/// Whether an event decides who may be in calls, and how, whoever it is.
fn is_rule(event: &Event) -> bool {
    matches!(event.event_type, TimelineEventType::RoomPowerLevels | TimelineEventType::RoomServerAcl)
        && event.state_key.as_deref() == Some("")
}

//! Calls: from the settings to what serves them, and who is thrown out of them.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    num::{NonZeroU16, NonZeroUsize},
    sync::Arc,
    thread,
    time::Duration,
};

use entente_api::{CallMember, Calls, Leaves, RemoteUsers, RoomMembers, Standing};
use entente_call_bridge::{
    ApiKey, CallBridge, LivekitError, LivekitServer, MediaAddress, Settings, Stopped, Webhooks,
};
use entente_config::{Config, Sfu};
use entente_environment::Environment;
use entente_federation::Federation;
use entente_rooms::{Change, Event, Membership, RoomError, Rooms};
use entente_storage::{LogEntry, StorageError, Store};
use entente_turn::TurnService;
use ruma::RoomId;

use crate::secrets;

/// Records of the log that are read at once.
const MOST_RECORDS: usize = 512;
/// Before the log is followed again after a failure. Who has to leave a call shall do so within a second.
const PAUSE: Duration = Duration::from_millis(200);
/// How often it is looked at whether everybody may still be in their calls: where the states of forks are resolved, nothing tells who is
/// joined no longer. At a `LiveKit` server, of which it is not known who is still there, it is about many more.
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
    if !config.calls.enabled {
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
        return Ok(Some(Calls::elsewhere(base_url.as_str(), key, members, url.as_str(), livekit)));
    }
    let secret = if let Some(secret) = &settings.api_secret {
        secret.reveal().to_owned()
    } else {
        let path = config.calls_secret_path();
        secrets::kept(&path, environment.randomness())
            .map_err(|error| format!("the secret of calls, {}: {error}", path.display()))?
    };
    let key = ApiKey { name: settings.api_key.clone(), secret };
    let addresses: Vec<MediaAddress> =
        settings.addresses.iter().map(|address| media_address(*address, settings.external_ip)).collect();
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
    let leaves = Leaves::new(rooms.clone(), bridge.clone(), clock, keeper.unwrap_or_default());
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
        tokio::join!(self.follow_log(), self.look_again());
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
                    for change in changes.iter().filter(|_| !present.is_empty()) {
                        match self.hear(change, &present).await {
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

    async fn hear(&self, change: &Change, present: &[CallMember]) -> Result<(), RemovalError> {
        match change {
            Change::Event { room, member: Some((user_id, membership)), .. }
            | Change::Membership { room, user_id, membership } => {
                let concerned = present.iter().any(|member| member.user_id == *user_id);
                if *membership == Membership::Join || !concerned {
                    return Ok(());
                }
                let room_id = self.members.rooms.view_of(*room).await?.room.room_id.clone();
                let is_theirs =
                    |member: &&CallMember| member.user_id == *user_id && member.room_id == room_id;
                for member in present.iter().filter(is_theirs) {
                    self.remove(member).await?;
                }
                Ok(())
            }
            Change::Event { room, number, .. } => {
                let found = self.members.rooms.event_by_number(*room, *number).await?;
                match found {
                    Some((view, event)) if decides(&event) => {
                        self.apply_powers(&view.room.room_id, present).await
                    }
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// The room may let others send than before.
    async fn apply_powers(&self, room_id: &RoomId, present: &[CallMember]) -> Result<(), RemovalError> {
        for member in present.iter().filter(|member| member.room_id == *room_id) {
            let standing = self.members.standing(member).await?;
            self.apply(member, standing).await?;
        }
        Ok(())
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

/// Whether an event decides who may be in calls, and how.
fn decides(event: &Event) -> bool {
    event.state_key.as_deref() == Some("")
        && ["m.room.power_levels", "m.room.server_acl"].contains(&event.event_type.to_string().as_str())
}

//! Calls: from the settings to what serves them, and who is thrown out of them.

use std::{net::IpAddr, num::NonZeroUsize, sync::Arc, thread, time::Duration};

use entente_api::{CallMember, Calls, Leaves, RemoteUsers, RoomMembers, Standing};
use entente_call_bridge::{ApiKey, CallBridge, MediaAddress, Settings};
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
        return Ok(Some(Calls::elsewhere(base_url.as_str(), key, members, url.as_str())));
    }
    let secret = if let Some(secret) = &settings.api_secret {
        secret.reveal().to_owned()
    } else {
        let path = config.calls_secret_path();
        secrets::kept(&path, environment.randomness())
            .map_err(|error| format!("the secret of calls, {}: {error}", path.display()))?
    };
    let key = ApiKey { name: settings.api_key.clone(), secret };
    let addresses = settings.addresses.iter().map(|address| media_address(*address, settings.external_ip));
    let bridge = Settings {
        workers: workers(settings),
        // Tokens of this server's users say that they may make a room.
        auto_create: false,
        turn,
        ..Settings::new(key.clone(), settings.udp_port.get(), addresses.collect())
    };
    let bridge = CallBridge::start(bridge, environment.clone(), Arc::new(members.clone()))
        .map_err(|error| format!("calls: {error}"))?;
    let leaves = Leaves::new(rooms.clone(), bridge.clone(), environment.clock().clone());
    Ok(Some(Calls::embedded(base_url.as_str(), key, members, bridge, leaves)))
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
    pub(crate) bridge: CallBridge,
}

#[derive(Debug, thiserror::Error)]
enum RemovalError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Room(#[from] RoomError),
    #[error(transparent)]
    Stopped(#[from] entente_call_bridge::Stopped),
}

impl CallRemovals {
    /// Follows the log from now on, for as long as it is polled. No cursor is stored: the calls of this process began with it,
    /// and whoever comes back to one is asked again.
    pub(crate) async fn follow(self) {
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
                    let owners = self.bridge.owners().await?;
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
            match self.members.standing(member).await? {
                Standing::Outside => self.remove(member).await?,
                standing => {
                    let may_publish = standing == Standing::Publisher;
                    let changed = self.bridge.permit_owner(&member.to_owner(), may_publish).await?;
                    if changed > 0 {
                        let CallMember { room_id, user_id } = member;
                        tracing::info!(room.id = %room_id, user.id = %user_id, may_publish, "the room's rules for its call changed");
                    }
                }
            }
        }
        Ok(())
    }

    async fn remove(&self, member: &CallMember) -> Result<(), RemovalError> {
        let removed = self.bridge.remove_owner(&member.to_owner()).await?;
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

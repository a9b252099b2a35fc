//! Calls: from the settings to what serves them, and who is thrown out of them.

use std::{
    fs, io, io::Write, net::IpAddr, num::NonZeroUsize, os::unix::fs::OpenOptionsExt, path::Path, sync::Arc,
    thread, time::Duration,
};

use entente_api::{CallMember, Calls, RoomMembers};
use entente_call_bridge::{ApiKey, CallBridge, MediaAddress, Settings};
use entente_config::{Config, Sfu};
use entente_environment::{Environment, Randomness};
use entente_rooms::{Change, Membership, RoomError, RoomNumber, Rooms};
use entente_storage::{LogEntry, StorageError, Store};
use ruma::{OwnedUserId, UserId};

/// Characters of a secret that is made here: 190 bits.
const SECRET_LENGTH: usize = 32;
/// Records of the log that are read at once.
const MOST_RECORDS: usize = 512;
/// Before the log is followed again after a failure. Who has to leave a call shall do so within a second.
const PAUSE: Duration = Duration::from_millis(200);

/// How calls are held; `None` if the settings say not at all.
pub(crate) fn open(
    config: &Config,
    environment: &Environment,
    rooms: &Rooms,
) -> Result<Option<Calls>, String> {
    if !config.calls.enabled {
        return Ok(None);
    }
    let base_url = config.public_base_url();
    let settings = &config.calls;
    if settings.sfu == Sfu::Livekit {
        let (Some(url), Some(secret)) = (&settings.livekit_url, &settings.api_secret) else {
            return Err("calls: a LiveKit server needs calls.livekit_url and calls.api_secret".to_owned());
        };
        let key = ApiKey { name: settings.api_key.clone(), secret: secret.reveal().to_owned() };
        return Ok(Some(Calls::elsewhere(base_url.as_str(), key, url.as_str())));
    }
    let secret = if let Some(secret) = &settings.api_secret {
        secret.reveal().to_owned()
    } else {
        let path = config.calls_secret_path();
        kept_secret(&path, environment.randomness())
            .map_err(|error| format!("the secret of calls, {}: {error}", path.display()))?
    };
    let key = ApiKey { name: settings.api_key.clone(), secret };
    let addresses = settings.addresses.iter().map(|address| media_address(*address, settings.external_ip));
    let bridge = Settings {
        workers: workers(settings),
        ..Settings::new(key.clone(), settings.udp_port.get(), addresses.collect())
    };
    let admission = Arc::new(RoomMembers(rooms.clone()));
    let bridge = CallBridge::start(bridge, environment.clone(), admission)
        .map_err(|error| format!("calls: {error}"))?;
    Ok(Some(Calls::embedded(base_url.as_str(), key, bridge)))
}

fn media_address(local: IpAddr, external: Option<IpAddr>) -> MediaAddress {
    let advertised = external.filter(|external| external.is_ipv4() == local.is_ipv4()).unwrap_or(local);
    MediaAddress { local, advertised }
}

fn workers(settings: &entente_config::Calls) -> NonZeroUsize {
    let wanted = settings.workers.and_then(|count| NonZeroUsize::try_from(count).ok());
    wanted.or_else(|| thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
}

/// The secret in a file, which is made if it is not there: tokens stay valid through a restart, and calls go on.
fn kept_secret(path: &Path, randomness: &Randomness) -> io::Result<String> {
    match fs::read_to_string(path) {
        Ok(secret) if secret.trim().len() >= SECRET_LENGTH => return Ok(secret.trim().to_owned()),
        Ok(_) => return Err(io::Error::other(format!("it has less than {SECRET_LENGTH} bytes"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let secret = randomness.alphanumeric(SECRET_LENGTH);
    // Another name first: a file that is there is complete.
    let unfinished = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    writeln!(file, "{secret}")?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    Ok(secret)
}

/// Throws those out of calls who are no longer joined to the room.
#[derive(Clone, Debug)]
pub(crate) struct CallRemovals {
    pub(crate) store: Store,
    pub(crate) rooms: Rooms,
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
                for entry in records.iter().flat_map(|record| &record.entries) {
                    self.hear(entry).await?;
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

    async fn hear(&self, entry: &LogEntry) -> Result<(), RemovalError> {
        if entry.topic != entente_rooms::TOPIC {
            return Ok(());
        }
        let Ok(Change::Event { room, member: Some((user_id, membership)), .. }) =
            Change::from_payload(&entry.payload)
        else {
            // What cannot be read is told by who follows the log for /sync.
            return Ok(());
        };
        if membership == Membership::Join {
            return Ok(());
        }
        let Some(user_id) = self.local(&user_id) else { return Ok(()) };
        let snapshot = self.store.snapshot().await?;
        let room = match self.rooms.room_by_number(&snapshot, RoomNumber(room)).await {
            Err(RoomError::RoomNotFound) => return Ok(()),
            room => room?,
        };
        let member = CallMember { room_id: room.room_id.clone(), user_id };
        let removed = self.bridge.remove_owner(&member.to_owner()).await?;
        if removed > 0 {
            let CallMember { room_id, user_id } = member;
            tracing::info!(room.id = %room_id, user.id = %user_id, removed, "no longer joined, so out of the call");
        }
        Ok(())
    }

    /// Only users of this server have tokens.
    fn local(&self, user_id: &str) -> Option<OwnedUserId> {
        let user_id = UserId::parse(user_id).ok()?;
        (user_id.server_name() == self.rooms.server_name()).then_some(user_id)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_made_once_and_kept_from_others() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data/calls-secret");
        let randomness = Randomness::from_seed(1);
        let secret = kept_secret(&path, &randomness).unwrap();
        assert_eq!(secret.len(), SECRET_LENGTH);
        assert_eq!(kept_secret(&path, &randomness).unwrap(), secret);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "short\n").unwrap();
        assert!(kept_secret(&path, &randomness).is_err());
    }
}

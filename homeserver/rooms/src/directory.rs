//! The public directory of rooms of this server (C-S API, "Published Room Directory").

use std::collections::BTreeSet;

use entente_storage::{Snapshot, Transaction};
use ruma::{RoomId, UserId, events::TimelineEventType};

use crate::{RoomError, RoomNumber, RoomSummary, Rooms, rows};

/// Rooms of one page.
const MOST_ROOMS: usize = 500;
/// Rooms of one page, if nobody says.
const DEFAULT_ROOMS: usize = 100;

/// The ids of a service and of its network together have at most this many bytes.
const MOST_INSTANCE_BYTES: usize = 511;

/// What somebody looks for in the directory.
#[derive(Clone, Debug, Default)]
pub struct DirectoryQuery {
    /// What the name, the topic or the alias of a room has in it, in either case of letters.
    pub term: Option<String>,
    /// Which kinds of rooms: `None` among them means rooms without a type. Not there: all.
    pub room_types: Option<Vec<Option<String>>>,
    /// How many.
    pub limit: Option<usize>,
    /// Where to go on: the token of another page.
    pub since: Option<String>,
    /// Whose rooms.
    pub network: DirectoryNetwork,
}

/// Which lists of rooms somebody looks through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DirectoryNetwork {
    /// The server's own.
    #[default]
    Matrix,
    /// Those of all networks too.
    All,
    /// That of one network to which an application service bridges, by the id of its instance.
    Instance(String),
}

/// Rooms of the directory, those with most members first.
#[derive(Clone, Debug, Default)]
pub struct DirectoryPage {
    /// The rooms.
    pub rooms: Vec<RoomSummary>,
    /// The token of the page behind.
    pub next: Option<String>,
    /// The token of the page before.
    pub previous: Option<String>,
    /// How many rooms there are on all pages.
    pub total: usize,
}

impl DirectoryQuery {
    fn wants(&self, summary: &RoomSummary) -> bool {
        let is_of_type = self.room_types.as_ref().is_none_or(|types| types.contains(&summary.room_type));
        let Some(term) = self.term.as_deref().filter(|term| !term.is_empty()) else { return is_of_type };
        let term = term.to_lowercase();
        let texts = [&summary.name, &summary.topic, &summary.canonical_alias];
        is_of_type && texts.into_iter().flatten().any(|text| text.to_lowercase().contains(&term))
    }
}

impl Rooms {
    /// A page of the directory.
    pub async fn public_rooms(&self, query: &DirectoryQuery) -> Result<DirectoryPage, RoomError> {
        let bad_token = || RoomError::InvalidParameter(String::from("that is no token of the directory"));
        let from = match query.since.as_deref() {
            None => 0,
            Some(token) => {
                token.strip_prefix('d').and_then(|from| from.parse::<usize>().ok()).ok_or_else(bad_token)?
            }
        };
        let limit = query.limit.unwrap_or(DEFAULT_ROOMS).clamp(1, MOST_ROOMS);
        let redactions = self.redactions();
        let snapshot = self.store().snapshot().await?;
        let mut found = Vec::new();
        for number in listed(&snapshot, &query.network).await? {
            let view = match self.view_in(&snapshot, RoomNumber(number), redactions).await {
                // It was purged, and the network lists it still.
                Err(RoomError::RoomNotFound) => continue,
                view => view?,
            };
            let summary = view.summary().await?;
            if query.wants(&summary) {
                found.push(summary);
            }
        }
        found.sort_by(|a, b| {
            b.num_joined_members.cmp(&a.num_joined_members).then_with(|| a.room_id.cmp(&b.room_id))
        });
        let total = found.len();
        let end = from.saturating_add(limit).min(total);
        let rooms: Vec<RoomSummary> = found.into_iter().skip(from).take(limit).collect();
        Ok(DirectoryPage {
            rooms,
            next: (end < total).then(|| format!("d{end}")),
            previous: (from > 0).then(|| format!("d{}", from.saturating_sub(limit))),
            total,
        })
    }

    /// Whether a room is in the directory.
    pub async fn is_published(&self, room_id: &RoomId) -> Result<bool, RoomError> {
        let snapshot = self.store().snapshot().await?;
        let room = self.room(&snapshot, room_id).await?;
        Ok(snapshot.get(&rows::PUBLISHED, room.number.0).await?.is_some())
    }

    /// Puts a room into the directory, or takes it out. Whoever may say which its canonical alias is may do it, and who
    /// administers the server.
    pub async fn publish(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        is_admin: bool,
        published: bool,
    ) -> Result<(), RoomError> {
        let view = self.view(room_id).await?;
        if !is_admin {
            view.require_joined(user_id).await?;
            if !view.powers().await?.may_send(user_id, &TimelineEventType::RoomCanonicalAlias, Some("")) {
                return Err(RoomError::Forbidden("you may not say whether others find this room"));
            }
        }
        let number = view.room.number.0;
        let mut transaction = Transaction::new();
        if published {
            transaction.put(&rows::PUBLISHED, number, &());
        } else {
            transaction.delete(&rows::PUBLISHED, number);
        }
        self.store().commit(transaction).await?;
        Ok(())
    }

    /// Puts a room into the list of a network, or takes it out (A-S API, "Publishing a room"). `instance` is unlike those of all others.
    pub async fn publish_in(
        &self,
        instance: &str,
        room_id: &RoomId,
        published: bool,
    ) -> Result<(), RoomError> {
        if instance.len() > MOST_INSTANCE_BYTES {
            return Err(RoomError::InvalidParameter(String::from(
                "the id of a network has at most 255 bytes",
            )));
        }
        let number = self.view(room_id).await?.room.number.0;
        let mut transaction = Transaction::new();
        if published {
            transaction.put(&rows::PUBLISHED_IN, (instance, number), &());
        } else {
            transaction.delete(&rows::PUBLISHED_IN, (instance, number));
        }
        self.store().commit(transaction).await?;
        Ok(())
    }
}

/// The numbers of the rooms in the lists of a network.
async fn listed(snapshot: &Snapshot, network: &DirectoryNetwork) -> Result<BTreeSet<u64>, RoomError> {
    let mut numbers = BTreeSet::new();
    if *network != DirectoryNetwork::Matrix {
        let of_network = match network {
            DirectoryNetwork::Instance(instance) => rows::PUBLISHED_IN.scan((instance.as_str(),)),
            _ => rows::PUBLISHED_IN.scan(()),
        };
        numbers.extend(snapshot.scan_all(of_network).await?.into_iter().map(|((_, number), ())| number));
    }
    if !matches!(network, DirectoryNetwork::Instance(_)) {
        let own = snapshot.scan_all(rows::PUBLISHED.scan(())).await?;
        numbers.extend(own.into_iter().map(|(number, ())| number));
    }
    Ok(numbers)
}

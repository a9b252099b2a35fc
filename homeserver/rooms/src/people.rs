//! Whom somebody may find: those with whom they share rooms, and who is in rooms that all may find (C-S API, "User Directory", "Mutual
//! rooms").

use std::collections::{BTreeMap, HashSet};

use ruma::{OwnedRoomId, UserId};

use crate::{Membership, Profile, RoomError, RoomNumber, Rooms, rows};

/// Memberships that one search looks at.
const MOST_LOOKED_AT: usize = 50_000;
/// Users that match, of whom the best are shown.
const MOST_MATCHES: usize = 500;

/// Users who were found, and whether there are more.
#[derive(Clone, Debug, Default)]
pub struct FoundUsers {
    /// User ids and how they appear.
    pub users: Vec<(String, Profile)>,
    /// Whether there are more than were asked for.
    pub limited: bool,
}

impl Rooms {
    /// Searches users by their names and ids, in either case of letters: those whose name or id begins like the term first.
    pub async fn search_users(
        &self,
        searcher: &UserId,
        term: &str,
        limit: usize,
    ) -> Result<FoundUsers, RoomError> {
        let term = term.trim().to_lowercase();
        if term.is_empty() {
            return Ok(FoundUsers::default());
        }
        let snapshot = self.store().snapshot().await?;
        let mut rooms = self.joined_rooms(&snapshot, searcher.as_str()).await?;
        let own: HashSet<RoomNumber> = rooms.iter().copied().collect();
        for (number, ()) in snapshot.scan_all(rows::PUBLISHED.scan(())).await? {
            rooms.extend(Some(RoomNumber(number)).filter(|number| !own.contains(number)));
        }
        let mut matches: BTreeMap<(u8, String), Profile> = BTreeMap::new();
        let mut met: HashSet<String> = HashSet::new();
        let (mut looked_at, mut stopped) = (0, false);
        'rooms: for room in rooms {
            let mut next = Some(rows::MEMBERS.scan((room.0,)));
            while let Some(scan) = next {
                let page = snapshot.scan(&scan).await?;
                looked_at += page.rows.len();
                for ((_, user_id), row) in page.rows {
                    if row.membership != Membership::Join || met.contains(&user_id) {
                        continue;
                    }
                    if let Some(rank) = rank(&term, &user_id, row.displayname.as_deref()) {
                        let profile = Profile { displayname: row.displayname, avatar_url: row.avatar_url };
                        matches.insert((rank, user_id.clone()), profile);
                    }
                    met.insert(user_id);
                }
                if looked_at > MOST_LOOKED_AT || matches.len() > MOST_MATCHES {
                    stopped = true;
                    break 'rooms;
                }
                next = page.next.map(|at| scan.resume(at));
            }
        }
        let limited = stopped || matches.len() > limit;
        let users = matches.into_iter().take(limit).map(|((_, user_id), profile)| (user_id, profile));
        Ok(FoundUsers { users: users.collect(), limited })
    }

    /// The rooms that two users are in, in the order of their ids, behind one of them.
    pub async fn mutual_rooms(
        &self,
        user_id: &UserId,
        other: &UserId,
    ) -> Result<Vec<OwnedRoomId>, RoomError> {
        let snapshot = self.store().snapshot().await?;
        let mut mutual = Vec::new();
        for room in self.joined_rooms(&snapshot, user_id.as_str()).await? {
            let row = snapshot.get(&rows::MEMBERS, (room.0, other.as_str())).await?;
            if row.is_some_and(|row| row.membership == Membership::Join) {
                mutual.push(self.room_by_number(&snapshot, room).await?.room_id.clone());
            }
        }
        mutual.sort();
        Ok(mutual)
    }
}

/// How well a user matches: lower is better.
fn rank(term: &str, user_id: &str, displayname: Option<&str>) -> Option<u8> {
    let name = displayname.unwrap_or_default().to_lowercase();
    let id = user_id.to_lowercase();
    let localpart = id.strip_prefix('@').and_then(|id| id.split(':').next()).unwrap_or_default();
    if name.starts_with(term) || localpart.starts_with(term) || id == *term {
        Some(0)
    } else if name.split_whitespace().any(|word| word.starts_with(term)) {
        Some(1)
    } else if name.contains(term) || id.contains(term) {
        Some(2)
    } else {
        None
    }
}

//! How many users of other servers are in the room.

use std::collections::BTreeMap;

use entente_storage::Transaction;
use ruma::{ServerName, UserId};

use super::Composer;
use crate::{Membership, RoomError, RoomNumber, rows};

/// Counts of members by server that the transaction changes, as they were and as they are.
#[derive(Debug, Default)]
pub(super) struct ServerCounts {
    counts: BTreeMap<String, (u64, u64)>,
}

impl ServerCounts {
    pub(super) fn put_in(&self, transaction: &mut Transaction, room: RoomNumber) {
        for (server, &(before, after)) in &self.counts {
            let key = (room.0, server.as_str());
            match after {
                _ if before == after => {}
                0 => transaction.delete(&rows::SERVERS, key),
                count => transaction.put(&rows::SERVERS, key, &count),
            }
        }
    }
}

impl Composer {
    /// Whether another server has users in the room.
    pub(super) async fn has_server(&self, server: &ServerName) -> Result<bool, RoomError> {
        match self.servers.counts.get(server.as_str()) {
            Some((_, count)) => Ok(*count > 0),
            None => self.view.has_server(server).await,
        }
    }

    /// Counts a user of another server in or out.
    pub(super) async fn count_server(
        &mut self,
        user_id: &str,
        before: Option<Membership>,
        after: Option<Membership>,
    ) -> Result<(), RoomError> {
        let (was_in, is_in) = (before == Some(Membership::Join), after == Some(Membership::Join));
        let Ok(user_id) = <&UserId>::try_from(user_id) else { return Ok(()) };
        let server = user_id.server_name();
        if was_in == is_in || server == self.view.rooms.server_name() {
            return Ok(());
        }
        let visited = (user_id.as_str(), self.view.room.number.0);
        if is_in {
            self.transaction.put(&rows::VISITED_ROOMS, visited, &());
        } else {
            self.transaction.delete(&rows::VISITED_ROOMS, visited);
        }
        if !self.servers.counts.contains_key(server.as_str()) {
            let key = (self.view.room.number.0, server.as_str());
            let count = self.view.snapshot.get(&rows::SERVERS, key).await?.unwrap_or_default();
            self.servers.counts.insert(server.to_string(), (count, count));
        }
        let elsewhere = &mut self.head.row.joined_elsewhere;
        let counted = self.servers.counts.get_mut(server.as_str());
        for count in counted.map(|(_, after)| after).into_iter().chain([elsewhere]) {
            *count = if is_in { count.saturating_add(1) } else { count.saturating_sub(1) };
        }
        Ok(())
    }
}

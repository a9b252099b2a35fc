use std::sync::Arc;

use ruma::{DeviceId, OwnedUserId, UserId};

use crate::{StateMode, Sync, SyncError, SyncRequest, SyncToken, response};

impl Sync {
    /// Whose devices changed, and with whom no encrypted room is shared any more, between two tokens of a user (C-S API,
    /// `GET /keys/changes`). What came after `to` may be in it too.
    pub async fn key_changes(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
        from: SyncToken,
    ) -> Result<(Vec<OwnedUserId>, Vec<OwnedUserId>), SyncError> {
        let request = SyncRequest {
            user_id: user_id.to_owned(),
            device_id: device_id.to_owned(),
            since: Some(from),
            timeout: std::time::Duration::ZERO,
            full_state: false,
            state_mode: StateMode::Before,
            filter: Arc::default(),
        };
        let redactions = self.inner.rooms.redactions();
        let snapshot = self.inner.store.snapshot().await?;
        let position = snapshot.position().await?;
        self.inner.news.reached(&position).await?;
        let (changed, left) = response::key_changes(self, &request, snapshot, position, redactions).await?;
        let parse = |users: std::collections::BTreeSet<String>| {
            users.into_iter().filter_map(|user_id| UserId::parse(user_id).ok()).collect()
        };
        Ok((parse(changed), parse(left)))
    }
}

//! The worker of one service.

use std::{sync::Arc, time::Duration};

use super::Desk;
use crate::{AppServiceError, AppServices};

/// Before a service that did not take something is asked again; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest that is waited. A service that asks for something itself ends the pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);
/// A service that is gone from the registrations is looked for this often.
const LOOK_EVERY: Duration = Duration::from_secs(60);

impl AppServices {
    /// Sends what waits for a service, for as long as there is such a service.
    pub(super) async fn work(self, service: String, desk: Arc<Desk>) {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.send_next(&service, &desk).await {
                Ok(Sent::Something) => pause = FIRST_PAUSE,
                Ok(Sent::Nothing) => {
                    let _ = tokio::time::timeout(LOOK_EVERY, desk.notify.notified()).await;
                }
                Ok(Sent::NoService) => return,
                Err(error) => {
                    if pause == FIRST_PAUSE {
                        tracing::warn!(service, %error, "an application service does not take what is sent to it; tried again until it does");
                    } else {
                        tracing::debug!(service, %error, "an application service does not take what is sent to it");
                    }
                    let alive = desk.alive.notified();
                    tokio::time::sleep(FIRST_PAUSE).await;
                    let _ = tokio::time::timeout(pause.saturating_sub(FIRST_PAUSE), alive).await;
                    pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    async fn send_next(&self, id: &str, desk: &Desk) -> Result<Sent, AppServiceError> {
        // Nothing is made for a service that is being removed.
        let steady = self.inner.in_use.read().await;
        let registry = self.registry();
        let Some(service) = registry.by_id(id).filter(|service| service.url.is_some()) else {
            // While no other registrations can be put in place, so that a service that is there again finds no desk without a worker.
            self.inner.desks.0.lock().remove(id);
            return Ok(Sent::NoService);
        };
        let Some(row) = self.next_transaction(service, desk).await? else { return Ok(Sent::Nothing) };
        drop(steady);
        self.inner.client.send_transaction(service, &row.transaction_id, row.body()).await?;
        self.note_taken(service, row).await?;
        Ok(Sent::Something)
    }
}

/// What came of looking for what waits.
enum Sent {
    Something,
    Nothing,
    NoService,
}

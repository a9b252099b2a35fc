//! Ringing (MSC4075).

use std::time::Duration;

use entente_appservice::{Context, Error};
use serde_json::json;

/// The type that clients know today.
const NOTIFICATION: &str = "org.matrix.msc4075.rtc.notification";

/// Rings for everybody in the room, for as long as this.
pub(super) async fn ring(context: &Context, lifetime: Duration) -> Result<(), Error> {
    let content = json!({
        "sender_ts": context.bridge().environment().now().millis(),
        "lifetime": u64::try_from(lifetime.as_millis()).unwrap_or(30_000),
        "notification_type": "ring",
        "m.mentions": { "room": true },
    });
    context.room().send_raw(NOTIFICATION, &content).await?;
    Ok(())
}

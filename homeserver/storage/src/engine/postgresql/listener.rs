use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};
use tokio_postgres::Client;

use super::connect::{Connector, read_heads, unavailable};
use crate::{LogPosition, Position, StorageError, WriterId};

/// Where writers say how far they got.
pub(super) const CHANNEL: &str = "entente_log";
/// Between attempts to connect again.
const PAUSE: Duration = Duration::from_secs(1);

/// What a writer says: its id and its newest sequence number.
pub(super) fn announce(position: LogPosition) -> String {
    format!("{}:{}", position.writer.0, position.sequence)
}

fn understand(payload: &str) -> Option<LogPosition> {
    let (writer, sequence) = payload.split_once(':')?;
    Some(LogPosition { writer: WriterId(writer.parse().ok()?), sequence: sequence.parse().ok()? })
}

/// Learns how far all writers got, until it is aborted.
pub(super) async fn listen(connector: Connector, positions: Arc<watch::Sender<Position>>) {
    loop {
        if let Err(error) = listen_once(&connector, &positions).await {
            tracing::warn!(%error, "cannot hear from other writers at present");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn listen_once(connector: &Connector, positions: &watch::Sender<Position>) -> Result<(), StorageError> {
    let (notifications, mut heard) = mpsc::unbounded_channel();
    let client: Client = connector.connect(Some(notifications)).await.map_err(|error| unavailable(&error))?;
    client.batch_execute(&format!("LISTEN {CHANNEL}")).await.map_err(|error| unavailable(&error))?;
    // What was committed while nobody listened.
    publish(positions, &read_heads(&client).await?);
    while let Some(notification) = heard.recv().await {
        if let Some(position) = understand(notification.payload()) {
            let mut reached = Position::start();
            reached.include(position);
            publish(positions, &reached);
        }
    }
    Err(StorageError::Unavailable(String::from("the connection that listens was lost")))
}

/// Tells those who wait, if it is news.
pub(super) fn publish(positions: &watch::Sender<Position>, reached: &Position) {
    positions.send_if_modified(|published| {
        let mut joined = published.clone();
        joined.join(reached);
        let grew = joined != *published;
        *published = joined;
        grew
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_are_understood() {
        let position = LogPosition { writer: WriterId(3), sequence: 17 };
        assert_eq!(understand(&announce(position)), Some(position));
        assert_eq!(understand("3"), None);
        assert_eq!(understand("a:b"), None);
    }
}

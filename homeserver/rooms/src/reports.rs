//! What users report to the operators (C-S API, "Reporting Content").

use entente_storage::Transaction;
use ruma::{EventId, OwnedUserId, RoomId, UserId};

use crate::{RoomError, Rooms, rows, rows::ReportRow};

/// A reason has at most this many bytes.
const MOST_REASON_BYTES: usize = 4_096;
/// Reports are kept for so long, in ms: a year. Each new one deletes one that is older.
const KEPT_FOR: u64 = 365 * 24 * 60 * 60 * 1_000;

/// Whom or what somebody reports.
#[derive(Clone, Debug)]
pub enum Reported<'a> {
    /// An event of a room.
    Event(&'a RoomId, &'a EventId),
    /// A room.
    Room(&'a RoomId),
    /// A user.
    User(&'a UserId),
}

/// A report, for the operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// When, in ms since 1970.
    pub at: u64,
    /// Who reports.
    pub reporter: OwnedUserId,
    /// The room or the user.
    pub subject: String,
    /// The event, if it is one.
    pub event_id: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

impl Rooms {
    /// Keeps a report. What is reported must be there, and be something that the reporter may see.
    pub async fn report(
        &self,
        reporter: &UserId,
        reported: &Reported<'_>,
        reason: Option<String>,
        score: Option<i64>,
    ) -> Result<(), RoomError> {
        if reason.as_ref().is_some_and(|reason| reason.len() > MOST_REASON_BYTES) {
            return Err(RoomError::TooLarge("a reason has at most 4096 bytes"));
        }
        if score.is_some_and(|score| !(-100..=0).contains(&score)) {
            return Err(RoomError::InvalidParameter(String::from("a score is from -100 to 0")));
        }
        let (subject, event_id) = match reported {
            Reported::Event(room_id, event_id) => {
                let view = self.view(room_id).await?;
                view.require_joined(reporter).await.map_err(|_| RoomError::EventNotFound)?;
                view.visible_event(reporter, event_id).await?;
                (room_id.to_string(), Some(event_id.to_string()))
            }
            Reported::Room(room_id) => {
                self.view(room_id).await?;
                (room_id.to_string(), None)
            }
            Reported::User(user_id) => (user_id.to_string(), None),
        };
        let environment = &self.inner.environment;
        let row = ReportRow { reporter: reporter.to_string(), subject, event_id, reason, score };
        let number = u64::from_be_bytes(environment.randomness().bytes());
        let mut transaction = Transaction::new();
        transaction.put(&rows::REPORTS, (environment.now().millis(), number), &row);
        let snapshot = self.store().snapshot().await?;
        if let Some(((at, number), _)) = snapshot.scan(&rows::REPORTS.scan(()).limit(1)).await?.rows.pop()
            && at.saturating_add(KEPT_FOR) < environment.now().millis()
        {
            transaction.delete(&rows::REPORTS, (at, number));
        }
        self.store().commit(transaction).await?;
        Ok(())
    }

    /// The newest reports.
    pub async fn reports(&self, limit: usize) -> Result<Vec<Report>, RoomError> {
        let snapshot = self.store().snapshot().await?;
        let page = snapshot.scan(&rows::REPORTS.scan(()).reverse().limit(limit)).await?;
        let report = |((at, _), row): ((u64, u64), ReportRow)| {
            let ReportRow { reporter, subject, event_id, reason, .. } = row;
            Some(Report { at, reporter: reporter.try_into().ok()?, subject, event_id, reason })
        };
        Ok(page.rows.into_iter().filter_map(report).collect())
    }
}

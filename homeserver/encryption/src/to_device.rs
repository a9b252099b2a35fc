use entente_environment::Timestamp;
use entente_storage::{Bytes, Keyspace, LogPosition, Position, Snapshot, Transaction, codec::Key};
use ruma::UserId;
use serde_json::value::RawValue;

use crate::{Change, Encryption, EncryptionError, rows};

/// A message has at most this many bytes.
const MOST_MESSAGE_BYTES: usize = 65_536;
/// All messages of one request have at most this many bytes.
const MOST_BYTES: usize = 16 * 1024 * 1024;
/// One request has at most this many messages.
const MOST_MESSAGES: usize = 10_000;
/// Transaction ids are remembered for so long, in ms.
const REMEMBERED_FOR: u64 = 24 * 60 * 60 * 1_000;
/// That a one-time key was handed out is remembered for so long, in ms: clients do not upload keys again that are older.
const CLAIMS_REMEMBERED_FOR: u64 = 90 * 24 * 60 * 60 * 1_000;

/// A message to one device.
#[derive(Clone, Debug)]
pub struct ToDeviceMessage<'a> {
    /// Whose device, by localpart.
    pub localpart: &'a str,
    /// Which.
    pub device_id: &'a str,
    /// Its content, a JSON object.
    pub content: &'a RawValue,
}

/// The device that sends messages, and the transaction id by which a retry is recognised.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    /// The user.
    pub user_id: &'a UserId,
    /// The device.
    pub device_id: &'a str,
    /// The transaction id.
    pub transaction_id: &'a str,
}

/// How much is read of what waits for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageLimit {
    /// Messages.
    pub messages: usize,
    /// Bytes of all of them.
    pub bytes: usize,
}

impl MessageLimit {
    /// How many of messages with these lengths are within it.
    fn fitting(self, lengths: impl Iterator<Item = usize>) -> usize {
        let total = |sum: &mut usize, length: usize| {
            *sum = sum.saturating_add(length);
            Some(*sum)
        };
        lengths.take(self.messages).scan(0, total).take_while(|bytes| *bytes <= self.bytes).count()
    }
}

impl From<usize> for MessageLimit {
    fn from(messages: usize) -> Self {
        Self { messages, bytes: usize::MAX }
    }
}

impl Encryption {
    /// Hands messages to local devices (C-S API, "Send-to-Device messaging"): all of them, once.
    pub async fn send_to_devices(
        &self,
        sender: Sender<'_>,
        event_type: &str,
        messages: &[ToDeviceMessage<'_>],
        now: Timestamp,
    ) -> Result<(), EncryptionError> {
        if messages.len() > MOST_MESSAGES {
            return Err(EncryptionError::TooLarge("one request has at most 10000 messages"));
        }
        if messages.iter().any(|message| message.content.get().len() > MOST_MESSAGE_BYTES) {
            return Err(EncryptionError::TooLarge("a message to a device has at most 65536 bytes"));
        }
        if event_type.len() > 255 || sender.transaction_id.len() > 255 {
            return Err(EncryptionError::TooLarge(
                "an event type and a transaction id have at most 255 bytes",
            ));
        }
        if messages.iter().any(|message| !message.content.get().trim_start().starts_with('{')) {
            return Err(EncryptionError::InvalidParameter("the content of a message is a JSON object"));
        }
        if messages.iter().map(|message| message.content.get().len()).sum::<usize>() > MOST_BYTES {
            return Err(EncryptionError::TooLarge("the messages of one request have at most 16 MiB"));
        }
        let key = (sender.user_id.localpart(), sender.device_id, sender.transaction_id);
        let head = serde_json::json!({ "type": event_type, "sender": sender.user_id }).to_string();
        let head = head.trim_end_matches('}');
        self.store
            .run(async |snapshot| {
                let mut transaction = Transaction::new();
                if snapshot.get(&rows::SENT, key).await?.is_some() {
                    // The same request came before.
                    return Ok((transaction, ()));
                }
                transaction.check_absent(&rows::SENT, key);
                transaction.put(&rows::SENT, key, &now.millis());
                let mut recipients = Vec::with_capacity(messages.len());
                for (index, message) in (0_u32..).zip(messages) {
                    let json = Bytes::from(format!("{head},\"content\":{}}}", message.content.get()));
                    let place = (message.localpart, message.device_id, LogPosition::AT_COMMIT, index);
                    transaction.put(&rows::TO_DEVICE, place, &json);
                    recipients.push((message.localpart.to_owned(), message.device_id.to_owned()));
                }
                if !recipients.is_empty() {
                    Change::ToDevice { recipients }.log_in(&mut transaction);
                }
                Ok::<_, EncryptionError>((transaction, ()))
            })
            .await?;
        Ok(())
    }

    /// The messages for a device that came behind `after` and within `to`, in their order, at most `limit`.
    pub async fn to_device_messages(
        &self,
        snapshot: &Snapshot,
        localpart: &str,
        device_id: &str,
        after: &Position,
        to: &Position,
        limit: usize,
    ) -> Result<Vec<(LogPosition, Bytes)>, EncryptionError> {
        let mut messages = Vec::new();
        let mut next = Some(rows::TO_DEVICE.scan((localpart, device_id)).limit(limit));
        while let Some(scan) = next {
            let page = snapshot.scan(&scan).await?;
            for ((_, _, position, _), message) in page.rows {
                if !after.includes(position) && to.includes(position) {
                    messages.push((position, message));
                }
                if messages.len() == limit {
                    return Ok(messages);
                }
            }
            next = page.next.map(|at| scan.resume(at));
        }
        Ok(messages)
    }

    /// The messages to a device that came behind `after` and within `to`, at most about `limit`, and up to where they go: `to`, or
    /// less where there are more. What one commit brought is not torn apart: if it alone is more than that, it comes as a whole.
    pub async fn to_device_page(
        &self,
        snapshot: &Snapshot,
        localpart: &str,
        device_id: &str,
        after: &Position,
        to: &Position,
        limit: impl Into<MessageLimit>,
    ) -> Result<(Vec<Bytes>, Position), EncryptionError> {
        let limit = limit.into();
        let more = limit.messages.saturating_add(1);
        let mut messages = self.to_device_messages(snapshot, localpart, device_id, after, to, more).await?;
        let fitting = limit.fitting(messages.iter().map(|(_, message)| message.len()));
        let Some(&(cut, _)) = messages.get(fitting) else {
            return Ok((messages.into_iter().map(|(_, message)| message).collect(), to.clone()));
        };
        messages.truncate(fitting);
        let whole = messages.iter().rposition(|(position, _)| *position != cut).map_or(0, |last| last + 1);
        messages.truncate(whole);
        if messages.is_empty() {
            // Nothing could be told apart of what is left of that commit.
            let of_commit = snapshot.scan_all(rows::TO_DEVICE.scan((localpart, device_id, cut))).await?;
            messages = of_commit.into_iter().map(|(_, message)| (cut, message)).collect();
        }
        let mut reached = after.clone();
        for (position, _) in &messages {
            reached.include(*position);
        }
        Ok((messages.into_iter().map(|(_, message)| message).collect(), reached))
    }

    /// Deletes the messages that a device has received: all up to a position.
    pub async fn acknowledge_to_device(
        &self,
        localpart: &str,
        device_id: &str,
        up_to: &Position,
    ) -> Result<(), EncryptionError> {
        let snapshot = self.store.snapshot().await?;
        let waiting = snapshot.scan_all(rows::TO_DEVICE.scan((localpart, device_id))).await?;
        // What is lost of this by a crash is deleted by the next acknowledgement.
        let mut transaction = Transaction::relaxed();
        for (key, _) in waiting.iter().filter(|((_, _, position, _), _)| up_to.includes(*position)) {
            transaction.delete(&rows::TO_DEVICE, key);
        }
        if !transaction.is_empty() {
            self.store.commit(transaction).await?;
        }
        Ok(())
    }

    /// Deletes what is remembered of requests that nobody will repeat, changes of device lists that newer ones stand for, and the
    /// oldest of too many messages for devices that nobody wakes. Answers how much.
    pub async fn delete_expired(&self, now: Timestamp) -> Result<usize, EncryptionError> {
        let sent = self.delete_older(&rows::SENT, now, REMEMBERED_FOR).await?;
        let claimed = self.delete_older(&rows::CLAIMED_KEYS, now, CLAIMS_REMEMBERED_FOR).await?;
        Ok(sent + claimed + self.delete_superseded().await? + self.trim_dehydrated(now).await?)
    }

    /// Deletes the rows of a keyspace of times that lie further back than `lifetime` (ms).
    async fn delete_older<K: Key>(
        &self,
        keyspace: &Keyspace<K, u64>,
        now: Timestamp,
        lifetime: u64,
    ) -> Result<usize, EncryptionError> {
        let snapshot = self.store.snapshot().await?;
        let mut deleted = 0;
        let mut next = Some(keyspace.scan(()));
        while let Some(scan) = next {
            let page = snapshot.scan(&scan).await?;
            let mut transaction = Transaction::relaxed();
            for (key, at) in &page.rows {
                if at.saturating_add(lifetime) < now.millis() {
                    transaction.delete(keyspace, key);
                    deleted += 1;
                }
            }
            if !transaction.is_empty() {
                self.store.commit(transaction).await?;
            }
            next = page.next.map(|at| scan.resume(at));
        }
        Ok(deleted)
    }
}

//! How much of other servers' requests is in memory at once. The signature of a request is over its body, so that is read before it is known
//! who sent it: what is read counts by the address that it comes from, and after that by the server that it is of.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::body::{Body, Bytes, HttpBody};
use futures_util::StreamExt;
use http::StatusCode;
use parking_lot::Mutex;

use crate::MatrixError;

/// So many bodies of the greatest size are in memory at once.
const MOST_AT_ONCE: usize = 8;
/// So many of them are of one server, or come from one address.
const MOST_OF_ONE: usize = 2;
/// A body that is no transaction has at most this many bytes: an event, an invite with what is told of the room, users whose keys are asked for.
const MOST_OTHER_BYTES: usize = 1024 * 1024;
/// How long a body may take to come.
const LONGEST: Duration = Duration::from_secs(30);
/// When a server is to try again for whose request there is no room. One that has two transactions of the greatest size under way
/// waits for their answers anyhow.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The room in memory for bodies of other servers' requests. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Intake {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// The greatest body, in bytes.
    most: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    total: usize,
    by: HashMap<String, usize>,
}

/// Bytes that somebody has in memory, until it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    inner: Arc<Inner>,
    key: String,
    bytes: usize,
}

impl Intake {
    /// Room for bodies of at most so many bytes each.
    pub fn new(most: usize) -> Self {
        Self { inner: Arc::new(Inner { most, held: Mutex::default() }) }
    }

    /// Reads a body. `from` is the address that it comes from.
    pub(super) async fn read(
        &self,
        from: String,
        body: Body,
        is_transaction: bool,
    ) -> Result<(Bytes, Share), MatrixError> {
        let most = if is_transaction { self.inner.most } else { self.inner.most.min(MOST_OTHER_BYTES) };
        let mut share = Share { inner: Arc::clone(&self.inner), key: from, bytes: 0 };
        // What is announced and will not fit need not come.
        let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if announced > most {
            return Err(MatrixError::body_too_large(most));
        }
        share.check(announced)?;
        let mut read = Vec::new();
        let reading = async {
            let mut pieces = body.into_data_stream();
            while let Some(piece) = pieces.next().await {
                let piece = piece.map_err(|error| MatrixError::unreadable_body(&error, most))?;
                if piece.len() > most.saturating_sub(read.len()) {
                    return Err(MatrixError::body_too_large(most));
                }
                share.grow(piece.len())?;
                read.extend_from_slice(&piece);
            }
            Ok(())
        };
        tokio::time::timeout(LONGEST, reading).await.unwrap_or_else(|_| {
            let message = "the body of the request took too long to come";
            Err(MatrixError::new(StatusCode::REQUEST_TIMEOUT, "M_UNKNOWN", message))
        })?;
        Ok((read.into(), share))
    }
}

impl Inner {
    /// Refuses more bytes than there is room for.
    fn check(&self, held: &Held, key: &str, bytes: usize) -> Result<(), MatrixError> {
        let own = held.by.get(key).copied().unwrap_or_default();
        if own.saturating_add(bytes) > self.most.saturating_mul(MOST_OF_ONE) {
            return Err(MatrixError::limit_exceeded(RETRY_AFTER).saying("too many bytes at once"));
        }
        if held.total.saturating_add(bytes) > self.most.saturating_mul(MOST_AT_ONCE) {
            return Err(MatrixError::unavailable("the server has too much to read"));
        }
        Ok(())
    }
}

impl Held {
    fn add(&mut self, key: &str, bytes: usize) {
        self.total += bytes;
        *self.by.entry(key.to_owned()).or_default() += bytes;
    }

    fn take_away(&mut self, key: &str, bytes: usize) {
        self.total -= bytes;
        if let Some(own) = self.by.get_mut(key) {
            *own -= bytes;
            if *own == 0 {
                self.by.remove(key);
            }
        }
    }
}

impl Share {
    fn check(&self, bytes: usize) -> Result<(), MatrixError> {
        self.inner.check(&self.inner.held.lock(), &self.key, bytes)
    }

    fn grow(&mut self, bytes: usize) -> Result<(), MatrixError> {
        let mut held = self.inner.held.lock();
        self.inner.check(&held, &self.key, bytes)?;
        held.add(&self.key, bytes);
        self.bytes += bytes;
        Ok(())
    }

    /// Counts the bytes as those of somebody else from here on, unless they have too many.
    pub(super) fn hand_over(&mut self, key: String) -> Result<(), MatrixError> {
        let mut held = self.inner.held.lock();
        held.take_away(&self.key, self.bytes);
        let checked = self.inner.check(&held, &key, self.bytes);
        if checked.is_ok() {
            self.key = key;
        }
        held.add(&self.key, self.bytes);
        checked
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.inner.held.lock().take_away(&self.key, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use futures_util::stream;

    use super::*;

    async fn read(
        intake: &Intake,
        from: &str,
        bytes: usize,
        is_transaction: bool,
    ) -> Result<(Bytes, Share), u16> {
        // Nobody knows before how long it is.
        let pieces = vec![Ok::<_, std::convert::Infallible>(vec![b' '; bytes / 2]); 2];
        let read =
            intake.read(from.to_owned(), Body::from_stream(stream::iter(pieces)), is_transaction).await;
        read.map_err(|error| error.into_response().status().as_u16())
    }

    #[tokio::test]
    async fn there_is_room_for_so_much_of_one_and_of_all() {
        let intake = Intake::new(100);
        assert_eq!(read(&intake, "a", 102, true).await.err(), Some(413));
        assert_eq!(intake.inner.held.lock().total, 0);
        let (body, first) = read(&intake, "a", 100, true).await.expect("there is room");
        assert_eq!(body.len(), 100);
        let second = read(&intake, "a", 100, true).await.expect("there is room");
        assert_eq!(read(&intake, "a", 2, true).await.err(), Some(429));
        drop(second);
        let (_, mut share) = read(&intake, "a", 100, true).await.expect("there is room again");
        share.hand_over(String::from("server")).expect("it has nothing yet");
        let mut all = vec![share];
        for number in 0..6 {
            all.push(read(&intake, &number.to_string(), 100, true).await.expect("there is room").1);
        }
        assert_eq!(read(&intake, "b", 2, true).await.err(), Some(503));
        for share in &mut all[1..2] {
            share.hand_over(String::from("server")).expect("it may have two");
        }
        assert!(all[2].hand_over(String::from("server")).is_err(), "and no more");
        drop((all, first));
        let held = intake.inner.held.lock();
        assert_eq!((held.total, held.by.len()), (0, 0));
    }

    #[tokio::test]
    async fn only_transactions_are_large() {
        let intake = Intake::new(4 * MOST_OTHER_BYTES);
        assert_eq!(read(&intake, "a", MOST_OTHER_BYTES + 2, false).await.err(), Some(413));
        assert!(read(&intake, "a", MOST_OTHER_BYTES, false).await.is_ok());
        assert!(read(&intake, "a", MOST_OTHER_BYTES + 2, true).await.is_ok());
        let body = Body::from(vec![b' '; MOST_OTHER_BYTES + 2]);
        let announced = intake.read(String::new(), body, false).await;
        assert_eq!(announced.map_err(|error| error.into_response().status().as_u16()).err(), Some(413));
    }
}

//! The answer to a client that knows nothing, which can be long: it is made room by room while it is sent, so that it never is in
//! memory as a whole.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use entente_rooms::Membership;
use entente_storage::Bytes;
use futures_util::Stream;
use tokio::{
    sync::{SemaphorePermit, mpsc},
    task::AbortHandle,
    time::timeout,
};

use crate::{
    Sync, SyncError, SyncRequest, SyncToken,
    response::{Making, Response},
};

/// So many bytes are sent at once, or more if a room has more.
const PART: usize = 128 * 1024;
/// A client that takes longer for a part is given up: meanwhile a snapshot of the store is kept for it.
const LONGEST_PART: Duration = Duration::from_secs(30);
/// So is one that takes longer for all of them.
const LONGEST_ANSWER: Duration = Duration::from_secs(10 * 60);

/// What the object of rooms has, and who is in which of its members.
const KINDS: [(&str, &[Membership]); 4] = [
    ("join", &[Membership::Join]),
    ("invite", &[Membership::Invite]),
    ("knock", &[Membership::Knock]),
    ("leave", &[Membership::Leave, Membership::Ban]),
];

/// The body of an answer: a JSON object.
#[derive(Debug)]
pub enum Answer {
    /// All of it.
    Whole(Vec<u8>),
    /// Its parts, which are made as they are asked for. After an error none comes any more.
    Parts(Parts),
}

/// A body that is made while it is read, by a task of its own: whether anybody reads changes nothing of what the task holds.
pub struct Parts {
    first: Option<Vec<u8>>,
    /// Whether no part comes any more.
    is_over: bool,
    made: mpsc::Receiver<Result<Part, SyncError>>,
    task: AbortHandle,
}

struct Part {
    json: Vec<u8>,
    is_last: bool,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Parts").finish_non_exhaustive()
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Parts {
    fn poll_part(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Vec<u8>, SyncError>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let part = ready!(self.made.poll_recv(context));
        self.is_over = match &part {
            Some(Ok(part)) => part.is_last,
            Some(Err(_)) | None => true,
        };
        // What ends without a last part was given up.
        let part = part.unwrap_or_else(|| Err(SyncError::closed()));
        Poll::Ready(Some(part.map(|part| part.json)))
    }
}

impl Stream for Parts {
    type Item = Result<Bytes, SyncError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Bytes::from(first))));
        }
        self.poll_part(context).map(|part| Some(part?.map(Bytes::from)))
    }
}

/// Begins to make the answer to a client that knows nothing. One that is short is made to the end.
pub(crate) async fn begin(sync: Sync, request: SyncRequest) -> Result<Answer, SyncError> {
    let (sender, made) = mpsc::channel(1);
    let making = tokio::spawn(async move {
        if let Ok(Err(error)) = timeout(LONGEST_ANSWER, make(&sync, &request, &sender)).await {
            let _ = sender.send_timeout(Err(error), LONGEST_PART).await;
        }
    });
    let mut parts = Parts { first: None, is_over: false, made, task: making.abort_handle() };
    let first = std::future::poll_fn(|context| parts.poll_part(context)).await;
    let json = first.ok_or_else(SyncError::closed)??;
    if parts.is_over {
        return Ok(Answer::Whole(json));
    }
    parts.first = Some(json);
    Ok(Answer::Parts(parts))
}

type Sender = mpsc::Sender<Result<Part, SyncError>>;

async fn make(sync: &Sync, request: &SyncRequest, sender: &Sender) -> Result<(), SyncError> {
    // What concerns the user is noted from here on, so that the token of this answer is one to wait from.
    let _waker = sync.inner.news.attend(request.user_id.localpart());
    if write(sync, request, Writer::begin(sync, sender, None).await?).await? {
        return Ok(());
    }
    // It is longer than a part, and others are so too. While it waits for its turn it holds no snapshot.
    let long = sync.inner.long_answers.acquire().await.map_err(|_| SyncError::closed())?;
    write(sync, request, Writer::begin(sync, sender, Some(long)).await?).await.map(drop)
}

/// Answers whether it could be written: one of several parts needs a place among the long ones.
async fn write(sync: &Sync, request: &SyncRequest, mut writer: Writer<'_>) -> Result<bool, SyncError> {
    let redactions = sync.inner.rooms.redactions();
    let snapshot = sync.inner.store.snapshot().await?;
    let position = snapshot.position().await?;
    sync.inner.news.reached(&position).await?;
    let mut response = Response::new(SyncToken::new(position.clone()));
    let mut making = Making::new(sync, request, snapshot, position, redactions);
    making.add_all_but_rooms(&mut response).await?;
    writer.json = response.into_json();
    // Its last brace comes behind the rooms.
    writer.json.pop();
    let mut scratch = Response::new(SyncToken::new(making.position.clone()));
    let rooms = making.user_rooms().await?;
    for (kind, memberships) in KINDS {
        for room in rooms.iter().filter(|room| memberships.contains(&room.membership)) {
            making.add_room(&mut scratch, room).await?;
            for made in scratch.take_rooms() {
                if !writer.room(kind, &made).await? {
                    return Ok(false);
                }
            }
        }
    }
    writer.end().await?;
    Ok(true)
}

/// Writes rooms and passes the parts on.
struct Writer<'a> {
    sync: &'a Sync,
    sender: &'a Sender,
    json: Vec<u8>,
    /// The kind of rooms that is being written.
    kind: Option<&'static str>,
    /// Making a part needs a place; while one waits to be sent it goes to others.
    place: Option<SemaphorePermit<'a>>,
    /// What has several parts keeps this one to its end.
    long: Option<SemaphorePermit<'a>>,
}

impl<'a> Writer<'a> {
    async fn begin(
        sync: &'a Sync,
        sender: &'a Sender,
        long: Option<SemaphorePermit<'a>>,
    ) -> Result<Self, SyncError> {
        let mut writer = Self { sync, sender, json: Vec::new(), kind: None, place: None, long };
        writer.take_place().await?;
        Ok(writer)
    }

    async fn take_place(&mut self) -> Result<(), SyncError> {
        self.place = Some(self.sync.inner.at_once.acquire().await.map_err(|_| SyncError::closed())?);
        Ok(())
    }

    /// Answers whether it may go on.
    async fn room(&mut self, kind: &'static str, made: &[u8]) -> Result<bool, SyncError> {
        if self.kind == Some(kind) {
            self.json.push(b',');
        } else {
            let before: &[u8] = if self.kind.is_none() { br#","rooms":{"# } else { b"}," };
            self.json.extend_from_slice(before);
            self.json.extend_from_slice(format!("\"{kind}\":{{").as_bytes());
            self.kind = Some(kind);
        }
        self.json.extend_from_slice(made);
        if self.json.len() >= PART {
            if self.long.is_none() {
                let Ok(long) = self.sync.inner.long_answers.try_acquire() else { return Ok(false) };
                self.long = Some(long);
            }
            self.pass(false).await?;
            self.take_place().await?;
        }
        Ok(true)
    }

    async fn end(mut self) -> Result<(), SyncError> {
        let end: &[u8] = if self.kind.is_some() { b"}}}" } else { b"}" };
        self.json.extend_from_slice(end);
        self.pass(true).await
    }

    async fn pass(&mut self, is_last: bool) -> Result<(), SyncError> {
        self.place = None;
        let part = Part { json: std::mem::take(&mut self.json), is_last };
        // Who is gone, or reads too slowly, gets no more.
        self.sender.send_timeout(Ok(part), LONGEST_PART).await.map_err(|_| SyncError::closed())
    }
}

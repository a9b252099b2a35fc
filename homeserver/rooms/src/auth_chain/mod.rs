//! Auth chains without walking them: which events are in the auth chain of others, and in what the auth chains of several states
//! differ.
//!
//! The state events of a room are laid out in chains, so that each event is in the auth chain of the next one in its chain. An
//! event has a [`ChainPosition`] there. Where an event names an auth event of another chain, and this does not follow from what is
//! stored already, its [`ChainRow`] has a link to it. So what an event reaches in a chain is always the chain's beginning up to
//! some sequence number, one number for each chain, and that is found from links alone. An event that replaces another under the
//! same event type and state key is put behind it; all others begin a chain.
//!
//! Here an event is taken to reach itself. With that the auth difference of states is the one that other servers compute: an
//! event that stands in all states is no part of it, even where it is in the auth chain of only some of them.
//!
//! What is kept for an event are two rows: its position under its number ([`ChainPosition::encode`]), and its [`ChainRow`] under
//! its position. A membership change in a large room adds 4 bytes for the position and 4 for the row, and 4 for each link, of
//! which it has none as long as power levels and join rules stay what they were, and mostly one or two when they do not. With 18
//! bytes for each key (keyspace, room, number or chain) and 4 for a sequence number that is about 50 bytes, and 26 if the position
//! is kept in the event's own row.
//!
//! All state events have positions, `m.room.create` too, and no others: nothing else is ever in an auth chain. No I/O here: rows are
//! asked of a [`ChainSource`], always many at once.

mod assign;
mod difference;
mod position;
mod reach;
mod subgraph;

use std::future::Future;

pub use self::{
    assign::{Assignment, assign},
    difference::AuthDifference,
    position::{ChainId, ChainPosition, ChainRow, InvalidChainRow, Span},
    reach::is_in_auth_chain,
    subgraph::conflicted_subgraph,
};
use crate::state::EventNumber;

/// Events or rows that are asked of a [`ChainSource`] at once, at most.
pub const MOST_AT_ONCE: usize = 4_096;

/// Why chains cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// An event has no position: it is not a state event, or came before its auth events.
    #[error("event {} of the room is in no auth chain", .0.0)]
    NoPosition(EventNumber),
    /// A row is not there though one behind it in its chain is.
    #[error("the auth chain of event {} has a hole", .0.0.0)]
    Incomplete(ChainId),
}

/// Where the chains of one room are kept.
pub trait ChainSource: Sync {
    /// Why they cannot be read.
    type Error: From<ChainError>;

    /// The positions of these events, in their order; `None`: the event has none.
    fn positions(
        &self,
        events: &[EventNumber],
    ) -> impl Future<Output = Result<Vec<Option<ChainPosition>>, Self::Error>> + Send;

    /// The rows of each span, by ascending sequence number, in the order of the spans; those that are not there are left out.
    /// Most spans are one row, and rows stand under every sequence number from 1 to a chain's end: points are as good as ranges.
    fn rows(&self, spans: &[Span]) -> impl Future<Output = Result<Vec<Vec<ChainRow>>, Self::Error>> + Send;
}

/// The positions of events that must have one.
async fn positions_of<S: ChainSource>(
    source: &S,
    events: &[EventNumber],
) -> Result<Vec<ChainPosition>, S::Error> {
    let mut found = Vec::with_capacity(events.len());
    for events in events.chunks(MOST_AT_ONCE) {
        for (&event, position) in events.iter().zip(source.positions(events).await?) {
            found.push(position.ok_or(ChainError::NoPosition(event))?);
        }
    }
    Ok(found)
}

/// The events of spans that must be there.
async fn events_of<S: ChainSource>(source: &S, spans: &[Span]) -> Result<Vec<EventNumber>, S::Error> {
    let mut events = Vec::new();
    for spans in batches(spans) {
        for (span, rows) in spans.iter().zip(source.rows(&spans).await?) {
            if rows.len() != span.len() {
                return Err(ChainError::Incomplete(span.chain).into());
            }
            events.extend(rows.into_iter().map(|row| row.event));
        }
    }
    Ok(events)
}

/// The same spans, cut so that each batch has at most [`MOST_AT_ONCE`] rows.
fn batches(spans: &[Span]) -> Vec<Vec<Span>> {
    let mut batches = Vec::new();
    let mut batch = Vec::new();
    let mut room = MOST_AT_ONCE;
    for &span in spans {
        let mut rest = span;
        while rest.len() > room {
            let (first, behind) = rest.split_after(room);
            batch.push(first);
            batches.push(std::mem::take(&mut batch));
            room = MOST_AT_ONCE;
            rest = behind;
        }
        room -= rest.len();
        batch.push(rest);
        if room == 0 {
            batches.push(std::mem::take(&mut batch));
            room = MOST_AT_ONCE;
        }
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

/// The auth chains of these events, themselves included: everything that they reach.
pub async fn auth_chains_of<S: ChainSource>(
    source: &S,
    events: &[EventNumber],
) -> Result<Vec<EventNumber>, S::Error> {
    let mut reach = reach::Reach::default();
    for events in events.chunks(MOST_AT_ONCE) {
        let positions = positions_of(source, events).await?;
        reach.extend(source, &positions, |_| ()).await?;
    }
    let spans: Vec<Span> = reach
        .chains()
        .map(|ChainPosition { chain, sequence }| Span { chain, after: 0, to: sequence })
        .collect();
    events_of(source, &spans).await
}

/// The events before `event` in its chain, oldest first, and itself: for `m.room.power_levels` all that state resolution will ask
/// for one after the other (the "mainline"), as far as they are in one chain.
pub async fn chain_up_to<S: ChainSource>(
    source: &S,
    event: EventNumber,
) -> Result<Vec<EventNumber>, S::Error> {
    let mut events = Vec::new();
    for position in positions_of(source, &[event]).await? {
        let span = Span { chain: position.chain, after: 0, to: position.sequence };
        events.extend(events_of(source, &[span]).await?);
    }
    Ok(events)
}

use std::collections::{HashMap, hash_map::Entry};

use super::{
    ChainId, ChainSource, Span, events_of, positions_of,
    reach::{Link, Reach},
};
use crate::state::EventNumber;

/// The conflicted state subgraph: the events on all paths along `auth_events` from one conflicted event to another, these included
/// ("State resolution" of room version 12, MSC4297). Takes the events of the conflicted state set.
pub async fn conflicted_subgraph<S: ChainSource>(
    source: &S,
    conflicted: &[EventNumber],
) -> Result<Vec<EventNumber>, S::Error> {
    let positions = positions_of(source, conflicted).await?;
    let mut links_into: HashMap<ChainId, Vec<Link>> = HashMap::new();
    let mut reach = Reach::default();
    reach.extend(source, &positions, |link| links_into.entry(link.to.chain).or_default().push(link)).await?;

    // The events of a chain that reach a conflicted one are its end, from some sequence number on.
    let mut reaching: HashMap<ChainId, u32> = HashMap::new();
    let mut pending = positions;
    while let Some(position) = pending.pop() {
        match reaching.entry(position.chain) {
            Entry::Occupied(from) if *from.get() <= position.sequence => continue,
            Entry::Occupied(mut from) => {
                from.insert(position.sequence);
            }
            Entry::Vacant(place) => {
                place.insert(position.sequence);
            }
        }
        let links = links_into.get(&position.chain).into_iter().flatten();
        let reaching_it = links.filter(|link| link.to.sequence >= position.sequence);
        pending.extend(reaching_it.map(|link| link.from));
    }

    let spans = reaching.into_iter().map(|(chain, from)| {
        let after = from.saturating_sub(1);
        Span { chain, after, to: reach.in_chain(chain) }
    });
    let mut spans: Vec<Span> = spans.collect();
    spans.sort_unstable_by_key(|span| span.chain);
    events_of(source, &spans).await
}

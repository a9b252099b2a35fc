use std::collections::HashMap;

use super::{ChainId, ChainPosition, ChainRow, ChainSource, Span, positions_of};
use crate::state::EventNumber;

/// How far links are followed to find out that an auth event need not be linked, in steps. From a join that is to the join rules,
/// from there to the power levels, and to the membership of who set them, which names `m.room.create`.
const STEPS: usize = 3;
/// How many rows of a chain are looked at for that: after so many changes a member's chain repeats its links.
const ROWS: u32 = 64;
/// How many chains are looked at in each step.
const CHAINS: usize = 32;

/// What is to be stored for a new event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Its position. Whoever stores it checks in the same transaction that nothing stands there yet.
    pub position: ChainPosition,
    /// What stands there then.
    pub row: ChainRow,
}

/// Finds the place of a new state event. All its auth events have theirs already. `replaces` is that of its auth events that has its
/// own event type and state key, if there is one.
pub async fn assign<S: ChainSource>(
    source: &S,
    event: EventNumber,
    auth_events: &[EventNumber],
    replaces: Option<EventNumber>,
) -> Result<Assignment, S::Error> {
    let named = positions_of(source, auth_events).await?;
    let place_of_it = auth_events.iter().zip(&named).find(|&(&event, _)| Some(event) == replaces);
    let (next, covered) = look_around(source, &named, place_of_it.map(|(_, &position)| position)).await?;
    let position = next.unwrap_or(ChainPosition { chain: ChainId(event), sequence: 1 });

    let mut links: Vec<ChainPosition> = Vec::with_capacity(named.len());
    for (chain, sequence) in greatest(&named) {
        if chain != position.chain && covered.get(&chain).is_none_or(|&reached| reached < sequence) {
            links.push(ChainPosition { chain, sequence });
        }
    }
    links.sort_unstable();
    Ok(Assignment { position, row: ChainRow { event, links } })
}

/// Of each chain the greatest of these positions.
fn greatest(positions: &[ChainPosition]) -> HashMap<ChainId, u32> {
    let mut greatest = HashMap::new();
    for position in positions {
        let sequence = greatest.entry(position.chain).or_default();
        *sequence = position.sequence.max(*sequence);
    }
    greatest
}

/// The place behind `replaced`, if it is free, and what the links near the `named` positions reach: not all that they reach, but
/// what is not found only costs a link.
async fn look_around<S: ChainSource>(
    source: &S,
    named: &[ChainPosition],
    replaced: Option<ChainPosition>,
) -> Result<(Option<ChainPosition>, HashMap<ChainId, u32>), S::Error> {
    let next = replaced
        .and_then(|position| Some(ChainPosition { sequence: position.sequence.checked_add(1)?, ..position }));
    let mut next_is_free = next.is_some();
    let mut covered = HashMap::new();
    let mut pending = greatest(named);
    for step in 0..STEPS {
        let near = pending.drain().take(CHAINS);
        let mut spans: Vec<Span> =
            near.map(|(chain, to)| Span { chain, after: to.saturating_sub(ROWS), to }).collect();
        spans.extend(next.filter(|_| step == 0).map(Span::of));
        if spans.is_empty() {
            break;
        }
        for (span, rows) in spans.iter().zip(source.rows(&spans).await?) {
            if step == 0 && next.is_some_and(|next| *span == Span::of(next)) {
                next_is_free = rows.is_empty();
                continue;
            }
            for link in rows.into_iter().flat_map(|row| row.links) {
                let reached = covered.entry(link.chain).or_default();
                if *reached < link.sequence {
                    *reached = link.sequence;
                    pending.insert(link.chain, link.sequence);
                }
            }
        }
    }
    Ok((next.filter(|_| next_is_free), covered))
}

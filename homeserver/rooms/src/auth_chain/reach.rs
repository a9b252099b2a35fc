use std::collections::{HashMap, hash_map::Entry};

use super::{ChainError, ChainId, ChainPosition, ChainSource, Span, batches, positions_of};
use crate::state::EventNumber;

/// A link, by the row that has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) from: ChainPosition,
    pub(super) to: ChainPosition,
}

/// What some events reach, themselves included: of each chain the beginning, up to a sequence number.
#[derive(Debug, Default)]
pub(super) struct Reach {
    chains: HashMap<ChainId, u32>,
}

impl Reach {
    /// What the events at these positions reach.
    pub(super) async fn of<S: ChainSource>(
        source: &S,
        positions: &[ChainPosition],
    ) -> Result<Self, S::Error> {
        let mut reach = Self::default();
        reach.extend(source, positions, |_| ()).await?;
        Ok(reach)
    }

    /// Adds what these positions reach. `found` learns of each link on the way, once.
    pub(super) async fn extend<S: ChainSource>(
        &mut self,
        source: &S,
        positions: &[ChainPosition],
        mut found: impl FnMut(Link),
    ) -> Result<(), S::Error> {
        let mut pending: HashMap<ChainId, Span> = HashMap::new();
        for &position in positions {
            self.raise(position, &mut pending);
        }
        while !pending.is_empty() {
            let spans: Vec<Span> = pending.drain().map(|(_, span)| span).collect();
            for spans in batches(&spans) {
                for (span, rows) in spans.iter().zip(source.rows(&spans).await?) {
                    if rows.len() != span.len() {
                        return Err(ChainError::Incomplete(span.chain).into());
                    }
                    for (from, row) in span.positions().zip(rows) {
                        for to in row.links {
                            self.raise(to, &mut pending);
                            found(Link { from, to });
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Reaches up to `position`. What was not reached before is left in `pending`, to be read.
    fn raise(&mut self, position: ChainPosition, pending: &mut HashMap<ChainId, Span>) {
        let ChainPosition { chain, sequence: to } = position;
        let reached = self.chains.entry(chain).or_default();
        if *reached >= to {
            return;
        }
        let after = *reached;
        *reached = to;
        match pending.entry(chain) {
            Entry::Occupied(mut span) => span.get_mut().to = to,
            Entry::Vacant(place) => {
                place.insert(Span { chain, after, to });
            }
        }
    }

    /// Up to where it reaches in a chain; 0: nowhere.
    pub(super) fn in_chain(&self, chain: ChainId) -> u32 {
        self.chains.get(&chain).copied().unwrap_or_default()
    }

    /// The chains that it reaches, and up to where.
    pub(super) fn chains(&self) -> impl Iterator<Item = ChainPosition> {
        self.chains.iter().map(|(&chain, &sequence)| ChainPosition { chain, sequence })
    }
}

/// Whether `ancestor` is in the auth chain of `event`. An event is not in its own.
pub async fn is_in_auth_chain<S: ChainSource>(
    source: &S,
    ancestor: EventNumber,
    event: EventNumber,
) -> Result<bool, S::Error> {
    let positions = positions_of(source, &[ancestor, event]).await?;
    let [ancestor, event] = positions.as_slice() else { return Ok(false) };
    if ancestor.chain == event.chain {
        // Nothing in a chain is in the auth chain of what stands before it.
        return Ok(ancestor.sequence < event.sequence);
    }
    let reach = Reach::of(source, &[*event]).await?;
    Ok(reach.in_chain(ancestor.chain) >= ancestor.sequence)
}

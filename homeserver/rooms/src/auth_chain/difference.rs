use std::collections::{BTreeMap, HashSet};

use super::{ChainId, ChainPosition, ChainSource, MOST_AT_ONCE, Span, events_of, positions_of, reach::Reach};
use crate::state::EventNumber;

/// The auth difference of several states: what is in the auth chain of some and not of all of them ("State resolution" of room
/// version 2). Events that are conflicted themselves are left out, for they are in the full conflicted set anyway.
///
/// Begins with what the states do not have in common. Then what they do have in common can only take events away from it: see
/// [`AuthDifference::subtract`]. A large room has much in common and mostly nothing is left before all of it was looked at.
#[derive(Debug)]
pub struct AuthDifference {
    /// Sequence numbers, ascending.
    candidates: BTreeMap<ChainId, Vec<u32>>,
    /// What the common events that were looked at reach.
    common: Reach,
}

impl AuthDifference {
    /// The auth difference of states, from the events of each that are not in all of them.
    pub async fn of_conflicted<S: ChainSource>(
        source: &S,
        states: &[Vec<EventNumber>],
    ) -> Result<Self, S::Error> {
        let mut conflicted = HashSet::new();
        let mut of_states = Vec::with_capacity(states.len());
        for state in states {
            let positions = positions_of(source, state).await?;
            of_states.push(Reach::of(source, &positions).await?);
            conflicted.extend(positions);
        }
        let chains: HashSet<ChainId> =
            of_states.iter().flat_map(Reach::chains).map(|reached| reached.chain).collect();
        let mut candidates = BTreeMap::new();
        for chain in chains {
            let reached = || of_states.iter().map(|reach| reach.in_chain(chain));
            let after = reached().min().unwrap_or_default();
            let to = reached().max().unwrap_or_default();
            let unknown = Span { chain, after, to }.positions().filter(|place| !conflicted.contains(place));
            let sequences: Vec<u32> = unknown.map(|place| place.sequence).collect();
            if !sequences.is_empty() {
                candidates.insert(chain, sequences);
            }
        }
        Ok(Self { candidates, common: Reach::default() })
    }

    /// Whether nothing is left. Then looking at more of what the states have in common changes nothing.
    pub fn is_empty(&self) -> bool {
        self.candidates.is_empty()
    }

    /// Takes away what events that are in all of the states reach. Call it for all of them, page by page, until nothing is left:
    /// for the settings of a room before its members, because they reach the most.
    pub async fn subtract<S: ChainSource>(
        &mut self,
        source: &S,
        common: &[EventNumber],
    ) -> Result<(), S::Error> {
        for page in common.chunks(MOST_AT_ONCE) {
            if self.is_empty() {
                break;
            }
            let positions = positions_of(source, page).await?;
            self.common.extend(source, &positions, |_| ()).await?;
            for (&chain, sequences) in &mut self.candidates {
                let reached = self.common.in_chain(chain);
                sequences.retain(|&sequence| sequence > reached);
            }
            self.candidates.retain(|_, sequences| !sequences.is_empty());
        }
        Ok(())
    }

    /// The events of the difference.
    pub async fn events<S: ChainSource>(&self, source: &S) -> Result<Vec<EventNumber>, S::Error> {
        let positions = self.candidates.iter().flat_map(|(&chain, sequences)| {
            sequences.iter().map(move |&sequence| ChainPosition { chain, sequence })
        });
        let spans: Vec<Span> = positions.map(Span::of).collect();
        events_of(source, &spans).await
    }
}

//! What the chains say is what walking the auth events says, in any graph.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    future::Future,
};

use entente_rooms::{
    auth_chain::{
        Assignment, AuthDifference, ChainError, ChainId, ChainPosition, ChainRow, ChainSource, Span, assign,
        chain_up_to, conflicted_subgraph, is_in_auth_chain,
    },
    state::EventNumber,
};
use proptest::{prelude::*, sample::Index};

/// What is stored, as it is stored.
#[derive(Default)]
struct Memory {
    positions: HashMap<EventNumber, Vec<u8>>,
    rows: HashMap<ChainPosition, Vec<u8>>,
}

impl Memory {
    fn store(&mut self, assignment: &Assignment) {
        let Assignment { position, row } = assignment;
        self.positions.insert(row.event, position.encode());
        assert_eq!(self.rows.insert(*position, row.encode()), None, "two events at {position:?}");
    }
}

impl ChainSource for Memory {
    type Error = ChainError;

    async fn positions(&self, events: &[EventNumber]) -> Result<Vec<Option<ChainPosition>>, ChainError> {
        let decode = |bytes: &Vec<u8>| ChainPosition::decode(bytes).expect("it was encoded");
        Ok(events.iter().map(|event| self.positions.get(event).map(decode)).collect())
    }

    async fn rows(&self, spans: &[Span]) -> Result<Vec<Vec<ChainRow>>, ChainError> {
        let row = |bytes: &Vec<u8>| ChainRow::decode(bytes).expect("it was encoded");
        let rows = |span: &Span| span.positions().filter_map(|at| self.rows.get(&at)).map(row).collect();
        Ok(spans.iter().map(rows).collect())
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    futures_util::FutureExt::now_or_never(future).expect("nothing waits for anything")
}

/// An event by its state key and auth events; its number is scattered, for numbers say nothing of who came first.
#[derive(Debug)]
struct Node {
    number: EventNumber,
    auth_events: Vec<usize>,
    replaces: Option<usize>,
}

#[derive(Debug)]
struct Graph {
    nodes: Vec<Node>,
}

impl Graph {
    /// Each event names up to four earlier ones. If one of these has its state key, it replaces that one.
    fn new(choices: &[(u8, Vec<Index>)]) -> Self {
        let mut nodes: Vec<Node> = Vec::new();
        for (place, (state_key, named)) in choices.iter().enumerate() {
            let named: BTreeSet<usize> = if place == 0 {
                BTreeSet::new()
            } else {
                named.iter().map(|index| index.index(place)).collect()
            };
            let same_key = |&earlier: &usize| choices[earlier].0 == *state_key;
            let replaces = named.iter().copied().rfind(same_key);
            let sign = if place % 3 == 0 { -1 } else { 1 };
            let number = EventNumber(sign * i64::try_from(place * 37).expect("few events"));
            nodes.push(Node { number, auth_events: named.into_iter().collect(), replaces });
        }
        Self { nodes }
    }

    fn memory(&self) -> Memory {
        let mut memory = Memory::default();
        for node in &self.nodes {
            let auth_events = self.numbers(&node.auth_events);
            let replaces = node.replaces.map(|place| self.nodes[place].number);
            memory
                .store(&wait(assign(&memory, node.number, &auth_events, replaces)).expect("it has a place"));
        }
        memory
    }

    fn numbers<'a>(&self, places: impl IntoIterator<Item = &'a usize>) -> Vec<EventNumber> {
        places.into_iter().map(|&place| self.nodes[place].number).collect()
    }

    /// What some events reach by their auth events, themselves included.
    fn walk<'a>(&self, from: impl IntoIterator<Item = &'a usize>) -> BTreeSet<usize> {
        let mut pending: Vec<usize> = from.into_iter().copied().collect();
        let mut seen = BTreeSet::new();
        while let Some(place) = pending.pop() {
            if seen.insert(place) {
                pending.extend(&self.nodes[place].auth_events);
            }
        }
        seen
    }
}

fn graphs() -> impl Strategy<Value = Graph> {
    let node = (0..6_u8, prop::collection::vec(any::<Index>(), 0..5));
    prop::collection::vec(node, 1..60).prop_map(|choices| Graph::new(&choices))
}

fn sorted(mut numbers: Vec<EventNumber>) -> Vec<EventNumber> {
    numbers.sort_unstable();
    numbers
}

fn sets() -> impl Strategy<Value = Vec<Vec<Index>>> {
    prop::collection::vec(prop::collection::vec(any::<Index>(), 0..6), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn finds_the_auth_chain(graph in graphs()) {
        let memory = graph.memory();
        for (place, node) in graph.nodes.iter().enumerate() {
            let chain = graph.walk(&node.auth_events);
            for (other, ancestor) in graph.nodes.iter().enumerate() {
                let found = wait(is_in_auth_chain(&memory, ancestor.number, node.number));
                prop_assert_eq!(found, Ok(chain.contains(&other)), "{} in the chain of {}", other, place);
            }
        }
    }

    #[test]
    fn finds_the_difference(graph in graphs(), states in sets(), common in prop::collection::vec(any::<Index>(), 0..6)) {
        let memory = graph.memory();
        let place = |index: &Index| index.index(graph.nodes.len());
        let states: Vec<Vec<usize>> = states.iter().map(|state| state.iter().map(place).collect()).collect();
        let common: Vec<usize> = common.iter().map(place).collect();

        let chains: Vec<BTreeSet<usize>> =
            states.iter().map(|state| graph.walk(state.iter().chain(&common))).collect();
        let everything = graph.walk(chains.iter().flatten());
        let conflicted: HashSet<usize> = states.iter().flatten().copied().collect();
        let walked: Vec<usize> = everything
            .into_iter()
            .filter(|place| !chains.iter().all(|chain| chain.contains(place)) && !conflicted.contains(place))
            .collect();

        let found = wait(async {
            let states: Vec<Vec<EventNumber>> = states.iter().map(|state| graph.numbers(state)).collect();
            let mut difference = AuthDifference::of_conflicted(&memory, &states).await?;
            for page in graph.numbers(&common).chunks(2) {
                difference.subtract(&memory, page).await?;
            }
            difference.events(&memory).await
        });
        prop_assert_eq!(found.map(sorted), Ok(sorted(graph.numbers(&walked))));
    }

    #[test]
    fn finds_the_conflicted_subgraph(graph in graphs(), conflicted in prop::collection::btree_set(any::<prop::sample::Index>().prop_map(|index| index.index(60)), 0..8)) {
        let memory = graph.memory();
        let conflicted: BTreeSet<usize> =
            conflicted.into_iter().filter(|&place| place < graph.nodes.len()).collect();
        let below = graph.walk(&conflicted);
        let on_a_path: Vec<usize> = below
            .into_iter()
            .filter(|place| graph.walk([place]).iter().any(|reached| conflicted.contains(reached)))
            .collect();
        let found = wait(conflicted_subgraph(&memory, &graph.numbers(&conflicted)));
        prop_assert_eq!(found.map(sorted), Ok(sorted(graph.numbers(&on_a_path))));
    }

    #[test]
    fn reads_what_it_encoded(event: i64, links in prop::collection::vec((any::<i64>(), 1..u32::MAX), 0..5)) {
        let links = links.into_iter();
        let links = links.map(|(chain, sequence)| ChainPosition { chain: ChainId(EventNumber(chain)), sequence });
        let row = ChainRow { event: EventNumber(event), links: links.collect() };
        prop_assert_eq!(ChainRow::decode(&row.encode()), Ok(row.clone()));
        for link in row.links {
            prop_assert_eq!(ChainPosition::decode(&link.encode()), Ok(link));
        }
    }

    #[test]
    fn reads_or_refuses_any_bytes(bytes: Vec<u8>) {
        if let Ok(row) = ChainRow::decode(&bytes) {
            prop_assert_eq!(ChainRow::decode(&row.encode()), Ok(row));
        }
        if let Ok(position) = ChainPosition::decode(&bytes) {
            prop_assert_eq!(ChainPosition::decode(&position.encode()), Ok(position));
        }
    }
}

/// The bytes of a room's two rows for an event, with keys of keyspace, room, and number or chain and sequence number.
const KEYS: usize = (2 + 8 + 8) + (2 + 8 + 8 + 4);

#[test]
fn a_membership_change_costs_little() {
    const MEMBERS: i64 = 20_000;
    let number = |number: i64| EventNumber(500_000 + number);
    let mut memory = Memory::default();
    let mut bytes = 0;
    let mut put = |event, auth_events: &[EventNumber], replaces| {
        let assignment = wait(assign(&memory, event, auth_events, replaces)).expect("it has a place");
        memory.store(&assignment);
        bytes += KEYS + assignment.position.encode().len() + assignment.row.encode().len();
        assignment
    };
    let (create, creator, join_rules) = (number(0), number(1), number(3));
    let mut power_levels = number(2);
    put(create, &[], None);
    put(creator, &[create], None);
    put(power_levels, &[create, creator], None);
    put(join_rules, &[create, creator, power_levels], None);
    let mut next = 4;
    let mut last = BTreeMap::new();
    for change in 0..4 * MEMBERS {
        if change % 5_000 == 4_999 {
            let newer = number(next);
            put(newer, &[create, creator, power_levels], Some(power_levels));
            (power_levels, next) = (newer, next + 1);
        }
        let (member, event) = (change % MEMBERS, number(next));
        let before: Option<EventNumber> = last.insert(member, event);
        let auth_events: Vec<EventNumber> =
            [create, power_levels, join_rules].into_iter().chain(before).collect();
        let links = put(event, &auth_events, before).row.links.len();
        let most = if before.is_none() { 2 } else { 1 };
        assert!(links <= most, "{links} links");
        next += 1;
    }
    let each = bytes / usize::try_from(next).expect("it counts events");
    assert!(each <= 54, "{each} bytes for each event");
}

#[test]
fn a_fork_begins_a_chain() {
    let mut memory = Memory::default();
    let [create, first, left, right, merged] = [0, 1, 2, 3, 4].map(EventNumber);
    for (event, auth_events, replaces) in [
        (create, vec![], None),
        (first, vec![create], None),
        (left, vec![create, first], Some(first)),
        (right, vec![create, first], Some(first)),
        (merged, vec![create, left], Some(left)),
    ] {
        memory.store(&wait(assign(&memory, event, &auth_events, replaces)).expect("it has a place"));
    }
    assert_eq!(wait(chain_up_to(&memory, merged)), Ok(vec![first, left, merged]));
    assert_eq!(wait(chain_up_to(&memory, right)), Ok(vec![right]));
    assert_eq!(wait(is_in_auth_chain(&memory, first, right)), Ok(true));
    assert_eq!(wait(is_in_auth_chain(&memory, left, right)), Ok(false));
}

#[test]
fn events_need_their_auth_events() {
    let memory = Memory::default();
    let result = wait(assign(&memory, EventNumber(1), &[EventNumber(0)], None));
    assert_eq!(result, Err(ChainError::NoPosition(EventNumber(0))));
}

#[test]
fn long_chains_are_read_in_pieces() {
    const LENGTH: i64 = 10_000;
    let mut memory = Memory::default();
    for number in 0..LENGTH {
        let before: Vec<EventNumber> = (number > 0).then(|| EventNumber(number - 1)).into_iter().collect();
        let assignment = wait(assign(&memory, EventNumber(number), &before, before.first().copied()));
        memory.store(&assignment.expect("it has a place"));
    }
    let other = EventNumber(LENGTH);
    memory.store(&wait(assign(&memory, other, &[EventNumber(LENGTH - 1)], None)).expect("it has a place"));
    assert_eq!(wait(is_in_auth_chain(&memory, EventNumber(0), other)), Ok(true));
    let chain: Vec<EventNumber> = (0..LENGTH).map(EventNumber).collect();
    assert_eq!(wait(chain_up_to(&memory, EventNumber(LENGTH - 1))), Ok(chain.clone()));
    let difference = wait(async {
        let difference = AuthDifference::of_conflicted(&memory, &[vec![other], vec![]]).await?;
        difference.events(&memory).await
    });
    assert_eq!(difference, Ok(chain));
}

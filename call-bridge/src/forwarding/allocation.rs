/// A video that a subscriber would like to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish<K> {
    /// Which.
    pub(crate) key: K,
    /// Higher ones are served first.
    pub(crate) priority: u32,
    /// The layers that are arriving and not larger than wanted, with their bits per second, lowest first.
    pub(crate) layers: Vec<(usize, u64)>,
    /// The layer that is being sent.
    pub(crate) current: Option<usize>,
    /// Whether it was paused just now, because there was no room for any.
    pub(crate) is_paused: bool,
}

/// What a subscriber gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Allocation<K> {
    /// The layer of each video; `None` where there is no room for any.
    pub(crate) layers: Vec<(K, Option<usize>)>,
    /// Bits per second at which the next improvement becomes possible; 0 if there is nothing to improve.
    pub(crate) next: u64,
    /// Bits per second of everything that is wanted.
    pub(crate) desired: u64,
}

/// An improvement must leave this share of the budget free, in percent: who goes up at the limit comes down at once.
const HEADROOM: u64 = 10;

/// The most important video goes on in its lowest layer while the budget is at least this share of that, in percent. Where little is sent,
/// estimates sink to less than that, and if nothing is sent they hardly rise again.
const HELD: u64 = 40;

/// By how much what is sent exceeds the budget when it is a flood, in percent. Estimates waver by less.
const FLOOD: u64 = 50;

/// Whether so much more is being sent than the budget, in bits per second, that it must not go on until keyframes of smaller layers come:
/// it would fill the queues in which they wait, and the sound.
pub(crate) fn floods<K>(budget: u64, wishes: &[Wish<K>]) -> bool {
    let of_current = |wish: &Wish<K>| {
        let current = wish.layers.iter().find(|(layer, _)| wish.current == Some(*layer));
        current.map(|(_, rate)| *rate)
    };
    let sent: u64 = wishes.iter().filter_map(of_current).sum();
    sent > budget.saturating_add(budget / 100 * FLOOD)
}

/// Divides a budget, in bits per second, among videos: the lowest layer for each, in the order of their priority, before any goes up.
///
/// Without `may_pause` everybody gets the lowest layer, whatever it costs.
pub(crate) fn allocate<K: Copy>(budget: u64, mut wishes: Vec<Wish<K>>, may_pause: bool) -> Allocation<K> {
    wishes.sort_by_key(|wish| std::cmp::Reverse(wish.priority));
    let desired = wishes.iter().filter_map(|wish| wish.layers.last()).map(|(_, rate)| rate).sum();
    let mut chosen: Vec<Option<usize>> = Vec::with_capacity(wishes.len());
    let mut spent: u64 = 0;
    let mut next = 0;
    for (place, wish) in wishes.iter().enumerate() {
        let lowest = wish.layers.first().map(|(_, rate)| *rate);
        let needed = |rate: u64| match place {
            0 if !wish.is_paused => rate * HELD / 100,
            _ => with_headroom(rate, wish.current.is_none()),
        };
        let fits = lowest.is_some_and(|rate| spent + needed(rate) <= budget);
        if let Some(rate) = lowest {
            if fits || !may_pause {
                spent += rate;
            } else if next == 0 {
                next = spent + with_headroom(rate, true);
            }
        }
        chosen.push(lowest.filter(|_| fits || !may_pause).map(|_| 0));
    }
    // One step for each, then the next step for each, as long as there is room.
    let steps = wishes.iter().map(|wish| wish.layers.len()).max().unwrap_or(0);
    for step in 1..steps {
        for (wish, chosen) in wishes.iter().zip(&mut chosen) {
            let (Some((_, below)), Some((layer, rate))) = (wish.layers.get(step - 1), wish.layers.get(step))
            else {
                continue;
            };
            if *chosen != Some(step - 1) {
                continue;
            }
            let more = rate.saturating_sub(*below);
            let rising = wish.current.is_none_or(|current| current < *layer);
            if spent + with_headroom(more, rising) <= budget {
                *chosen = Some(step);
                spent += more;
            } else if next == 0 {
                next = spent + with_headroom(more, true);
            }
        }
    }
    let layers = wishes
        .iter()
        .zip(chosen)
        .map(|(wish, step)| (wish.key, step.and_then(|step| wish.layers.get(step)).map(|(layer, _)| *layer)));
    Allocation { layers: layers.collect(), next, desired }
}

fn with_headroom(rate: u64, rising: bool) -> u64 {
    if rising { rate + rate * HEADROOM / 100 } else { rate }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(key: u8, priority: u32, current: Option<usize>) -> Wish<u8> {
        Wish { key, priority, layers: vec![(0, 100), (1, 300), (2, 1_000)], current, is_paused: false }
    }

    fn layers(budget: u64, wishes: &[Wish<u8>], may_pause: bool) -> Vec<(u8, Option<usize>)> {
        let mut layers = allocate(budget, wishes.to_vec(), may_pause).layers;
        layers.sort_unstable();
        layers
    }

    #[test]
    fn everybody_gets_something_before_anybody_gets_more() {
        let wishes = [wish(1, 0, None), wish(2, 1, None)];
        assert_eq!(layers(250, &wishes, true), [(1, Some(0)), (2, Some(0))]);
        assert_eq!(layers(500, &wishes, true), [(1, Some(0)), (2, Some(1))], "the more important one first");
        assert_eq!(layers(700, &wishes, true), [(1, Some(1)), (2, Some(1))]);
        assert_eq!(layers(9_000, &wishes, true), [(1, Some(2)), (2, Some(2))]);
    }

    #[test]
    fn what_does_not_fit_is_paused_where_that_is_allowed() {
        let wishes = [wish(1, 0, None), wish(2, 1, None)];
        assert_eq!(layers(150, &wishes, true), [(1, None), (2, Some(0))]);
        assert_eq!(layers(150, &wishes, false), [(1, Some(0)), (2, Some(0))]);
    }

    #[test]
    fn the_most_important_one_is_held() {
        let wishes = [wish(1, 0, Some(0)), wish(2, 1, Some(0))];
        assert_eq!(layers(40, &wishes, true), [(1, None), (2, Some(0))]);
        assert_eq!(layers(39, &wishes, true), [(1, None), (2, None)]);
        // It waits for a keyframe, after a larger layer was broken off.
        assert_eq!(layers(40, &[wish(1, 0, None)], true), [(1, Some(0))]);
        let paused = [Wish { is_paused: true, ..wish(1, 0, None) }];
        assert_eq!(layers(109, &paused, true), [(1, None)], "it would be paused again at once");
        assert_eq!(layers(110, &paused, true), [(1, Some(0))]);
    }

    #[test]
    fn going_up_takes_more_than_staying_up() {
        assert_eq!(layers(310, &[wish(1, 0, Some(0))], true), [(1, Some(0))]);
        assert_eq!(layers(310, &[wish(1, 0, Some(1))], true), [(1, Some(1))]);
        assert_eq!(layers(320, &[wish(1, 0, Some(0))], true), [(1, Some(1))]);
    }

    #[test]
    fn much_too_much_is_a_flood() {
        let sent = [wish(1, 0, Some(2)), wish(2, 0, Some(1)), wish(3, 0, None)];
        assert!(!floods(1_300, &sent) && !floods(900, &sent));
        assert!(floods(800, &sent));
        assert!(!floods(0, &[wish(3, 0, None)]), "nothing is sent");
    }

    #[test]
    fn it_says_what_would_help() {
        let allocation = allocate(250, vec![wish(1, 0, Some(0))], true);
        assert_eq!((allocation.next, allocation.desired), (320, 1_000));
        let allocation = allocate(5_000, vec![wish(1, 0, Some(0))], true);
        assert_eq!((allocation.next, allocation.desired), (0, 1_000));
        let none = allocate(5_000, vec![Wish { layers: vec![], ..wish(1, 0, None) }], true);
        assert_eq!(none.layers, [(1, None)], "nothing is arriving");
    }
}

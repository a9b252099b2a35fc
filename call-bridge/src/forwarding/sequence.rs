use std::collections::VecDeque;

/// How many left-out packets are remembered, for those before them that come late.
const REMEMBERED: usize = 64;

/// From the sequence numbers of one stream after the other to those of a single stream without gaps.
#[derive(Debug)]
pub(super) struct SequenceMap {
    /// The first number of the present stream that is let through, and what it becomes.
    from: u64,
    to: u64,
    /// Numbers that were left out, in order.
    skipped: VecDeque<u64>,
    highest: u64,
}

impl SequenceMap {
    /// A map whose first number is `first`.
    pub(super) fn new(first: u16) -> Self {
        Self { from: u64::MAX, to: 0, skipped: VecDeque::new(), highest: u64::from(first) }
    }

    /// Another stream begins with this packet.
    pub(super) fn begin(&mut self, sequence: u64) {
        self.from = sequence;
        self.to = self.highest + 1;
        self.skipped.clear();
    }

    /// Leaves a packet out without a gap, unless it is late: then those behind it are already numbered.
    pub(super) fn skip(&mut self, sequence: u64) {
        if sequence < self.from || self.number(sequence) <= self.highest || self.skipped.contains(&sequence) {
            return;
        }
        // In order, although they may not have come so.
        let place = self.skipped.partition_point(|skipped| *skipped < sequence);
        self.skipped.insert(place, sequence);
        if self.skipped.len() > REMEMBERED
            && let Some(oldest) = self.skipped.pop_front()
        {
            self.to += oldest - self.from;
            self.from = oldest + 1;
        }
    }

    /// The new number; `None` for packets from before the stream began, or that were left out.
    pub(super) fn map(&mut self, sequence: u64) -> Option<u64> {
        if sequence < self.from || self.skipped.contains(&sequence) {
            return None;
        }
        let number = self.number(sequence);
        self.highest = self.highest.max(number);
        Some(number)
    }

    fn number(&self, sequence: u64) -> u64 {
        let skipped = self.skipped.iter().filter(|skipped| **skipped < sequence).count();
        self.to + (sequence - self.from) - u64::try_from(skipped).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_stay_and_streams_join_without_a_gap() {
        let mut map = SequenceMap::new(9);
        assert_eq!(map.map(100), None, "nothing has begun");
        map.begin(100);
        assert_eq!(map.map(100), Some(10));
        assert_eq!(map.map(102), Some(12), "101 is lost or late");
        assert_eq!(map.map(101), Some(11));
        map.begin(7_000);
        assert_eq!(map.map(7_000), Some(13));
        assert_eq!(map.map(6_999), None, "from before the switch");
    }

    #[test]
    fn what_is_left_out_leaves_no_gap() {
        let mut map = SequenceMap::new(0);
        map.begin(1);
        assert_eq!(map.map(1), Some(1));
        map.skip(2);
        map.skip(2);
        assert_eq!(map.map(2), None);
        assert_eq!(map.map(4), Some(3));
        map.skip(3);
        assert_eq!(map.map(5), Some(4), "3 came too late to be left out");
    }

    #[test]
    fn remembering_is_bounded_and_loses_no_count() {
        let mut map = SequenceMap::new(0);
        map.begin(0);
        assert_eq!(map.map(0), Some(1));
        let mut expected = 1;
        for sequence in 1..1_000 {
            if sequence % 2 == 0 {
                map.skip(sequence);
            } else {
                expected += 1;
                assert_eq!(map.map(sequence), Some(expected));
            }
        }
        assert!(map.skipped.len() <= REMEMBERED);
    }

    #[test]
    fn what_is_left_out_may_come_in_any_order() {
        let mut map = SequenceMap::new(0);
        map.begin(0);
        assert_eq!(map.map(0), Some(1));
        for sequence in (1..=200).step_by(2) {
            map.skip(sequence + 1);
            map.skip(sequence);
        }
        assert_eq!(map.map(201), Some(2));
        assert_eq!(map.map(200), None);
    }
}

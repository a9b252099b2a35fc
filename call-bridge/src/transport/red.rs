//! Sound that carries what was sent shortly before once more (RFC 2198), so that hardly anything is missing where packets are lost.

use std::{collections::VecDeque, sync::Arc};

/// How many of the packets before come along: two, so that three in a row have to be lost until something is missing.
const EARLIER: usize = 2;
/// What a block of an earlier packet may hold, in bytes; ten bits tell its length.
const LONGEST_BLOCK: usize = 0x3ff;
/// How far back a block may be from, in ticks; fourteen bits tell that.
const FURTHEST: u32 = 0x3fff;
/// What a payload may hold altogether, in bytes, so that its packet fits every network.
const LARGEST: usize = 1_100;
/// More blocks than anybody sends are not read.
const MOST_BLOCKS: usize = 8;
/// The bit that says that another block follows.
const ANOTHER: u8 = 0x80;

/// What was sent last in a stream, to be sent along.
#[derive(Debug, Default)]
pub(crate) struct Redundancy {
    /// RTP timestamps and payloads, oldest first.
    earlier: VecDeque<(u32, Arc<[u8]>)>,
}

impl Redundancy {
    /// The payload with those before it. `payload_type` is that of the codec.
    pub(crate) fn wrap(&mut self, payload_type: u8, timestamp: u32, payload: &Arc<[u8]>) -> Arc<[u8]> {
        let mut left = LARGEST.saturating_sub(payload.len() + 1);
        let mut blocks = Vec::with_capacity(EARLIER);
        for (at, block) in self.earlier.iter().rev() {
            let back = timestamp.wrapping_sub(*at);
            let fits = block.len() <= LONGEST_BLOCK && block.len() + 4 <= left;
            if !fits || back == 0 || back > FURTHEST {
                break;
            }
            left -= block.len() + 4;
            blocks.push((back, block));
        }
        blocks.reverse();
        let mut wrapped = Vec::with_capacity(LARGEST - left);
        for (back, block) in &blocks {
            let length = u32::try_from(block.len()).unwrap_or(0);
            let header = u32::from(payload_type | ANOTHER) << 24 | back << 10 | length;
            wrapped.extend(header.to_be_bytes());
        }
        wrapped.push(payload_type);
        for (_, block) in &blocks {
            wrapped.extend_from_slice(block);
        }
        wrapped.extend_from_slice(payload);
        self.remember(timestamp, payload);
        wrapped.into()
    }

    fn remember(&mut self, timestamp: u32, payload: &Arc<[u8]>) {
        let is_late = |newest: u32| timestamp.wrapping_sub(newest).wrapping_sub(1) > u32::MAX / 2;
        if self.earlier.back().is_some_and(|(newest, _)| is_late(*newest)) {
            return;
        }
        if self.earlier.len() == EARLIER {
            self.earlier.pop_front();
        }
        self.earlier.push_back((timestamp, Arc::clone(payload)));
    }
}

/// A payload, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unwrapped<'a> {
    /// What was sent now.
    pub(crate) newest: &'a [u8],
    /// What was sent before, oldest first, each with how far back that was, in ticks.
    pub(crate) earlier: Vec<(u32, &'a [u8])>,
}

/// Takes a payload apart; `None` if it is none, or holds something else than the codec of `payload_type`.
pub(crate) fn unwrap(payload: &[u8], payload_type: u8) -> Option<Unwrapped<'_>> {
    let mut headers = Vec::new();
    let mut rest = payload;
    while rest.first()? & ANOTHER != 0 {
        let (header, behind) = rest.split_first_chunk::<4>()?;
        let header = u32::from_be_bytes(*header);
        headers.push((header >> 10 & FURTHEST, usize::try_from(header & 0x3ff).ok()?));
        if headers.len() > MOST_BLOCKS || payload_of(header) != payload_type {
            return None;
        }
        rest = behind;
    }
    let (last, mut rest) = rest.split_first()?;
    if *last != payload_type {
        return None;
    }
    let mut earlier = Vec::with_capacity(headers.len());
    for (back, length) in headers {
        let (block, behind) = rest.split_at_checked(length)?;
        earlier.push((back, block));
        rest = behind;
    }
    Some(Unwrapped { newest: rest, earlier })
}

fn payload_of(header: u32) -> u8 {
    header.to_be_bytes()[0] & !ANOTHER
}

/// Which packets of a stream have come, as far as it matters for filling gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Arrivals {
    newest: u64,
    /// The lowest bit stands for the newest, the next for that before it.
    came: u64,
}

impl Arrivals {
    /// Notes that a packet came; false if it had come before, or is so late that nobody knows.
    pub(super) fn note(&mut self, sequence: u64) -> bool {
        if self.came == 0 || sequence > self.newest {
            let ahead = u32::try_from(sequence.saturating_sub(self.newest)).unwrap_or(u32::MAX);
            self.came = self.came.checked_shl(ahead).unwrap_or(0) | 1;
            self.newest = sequence;
            return true;
        }
        let bit = u32::try_from(self.newest - sequence).ok().and_then(|back| 1_u64.checked_shl(back));
        let is_new = bit.is_some_and(|bit| self.came & bit == 0);
        self.came |= bit.unwrap_or(0);
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPUS: u8 = 111;

    fn payload(text: &str) -> Arc<[u8]> {
        text.as_bytes().into()
    }

    #[test]
    fn two_before_come_along() {
        let mut redundancy = Redundancy::default();
        let first = redundancy.wrap(OPUS, u32::MAX - 100, &payload("one"));
        assert_eq!(&first[..], b"\x6fone");
        redundancy.wrap(OPUS, 859, &payload("two"));
        let third = redundancy.wrap(OPUS, 1_819, &payload("three"));
        let read = unwrap(&third, OPUS).unwrap();
        assert_eq!(
            read,
            Unwrapped { newest: b"three", earlier: vec![(1_920, &b"one"[..]), (960, &b"two"[..])] }
        );
        let fourth = redundancy.wrap(OPUS, 2_779, &payload("four"));
        assert_eq!(unwrap(&fourth, OPUS).unwrap().earlier, [(1_920, &b"two"[..]), (960, &b"three"[..])]);
    }

    #[test]
    fn what_is_long_ago_late_or_too_large_does_not() {
        let mut redundancy = Redundancy::default();
        redundancy.wrap(OPUS, 1_000, &payload("before a silence"));
        let wrapped = redundancy.wrap(OPUS, 1_000 + FURTHEST + 1, &payload("after it"));
        assert!(unwrap(&wrapped, OPUS).unwrap().earlier.is_empty());
        let late = redundancy.wrap(OPUS, 1_500, &payload("late"));
        assert!(unwrap(&late, OPUS).unwrap().earlier.is_empty());
        let large = Arc::from(vec![7; LARGEST - 20]);
        let wrapped = redundancy.wrap(OPUS, 1_000 + FURTHEST + 961, &large);
        let read = unwrap(&wrapped, OPUS).unwrap();
        assert_eq!(read.earlier, [(960, &b"after it"[..])], "not the late one, and no more than fits");
        let wrapped = redundancy.wrap(OPUS, 1_000 + FURTHEST + 1_921, &payload("small"));
        assert!(unwrap(&wrapped, OPUS).unwrap().earlier.is_empty(), "a block of that length cannot be told");
    }

    #[test]
    fn what_is_cut_off_or_of_another_codec_is_refused() {
        let mut redundancy = Redundancy::default();
        redundancy.wrap(OPUS, 0, &payload("one"));
        let wrapped = redundancy.wrap(OPUS, 960, &payload(""));
        assert!(unwrap(&wrapped, OPUS).is_some());
        for length in 0..wrapped.len() {
            assert_eq!(unwrap(&wrapped[..length], OPUS), None, "{length} bytes");
        }
        assert_eq!(unwrap(&wrapped, OPUS + 1), None);
        assert_eq!(unwrap(&[ANOTHER | OPUS; 64], OPUS), None, "blocks without end");
    }

    #[test]
    fn every_packet_counts_once() {
        let mut arrivals = Arrivals::default();
        assert!(arrivals.note(1_000));
        assert!(!arrivals.note(1_000));
        assert!(arrivals.note(1_003));
        assert!(arrivals.note(1_002) && !arrivals.note(1_002));
        assert!(arrivals.note(1_100), "a jump ahead");
        assert!(arrivals.note(1_099) && !arrivals.note(1_003), "too long ago to know");
    }
}
